"""The images found as one HTML page: thumbnails are inside it, it has no script, and it fetches nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import quote

from clipline.pictures.thumbnails import of_image
from clipline.search.searcher import Answer, Result
from clipline.utils.files import output

# Styles and thumbnails of the page itself alone: whatever a name or a query holds, nothing is fetched or run.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_suffix(".css")
Thumbnail = Callable[[Path], str]
"""An image file -> its thumbnail as a data URI."""


def write(answers: Sequence[Answer], path: Path) -> None:
    """Write the page, whole or not at all. Raises CliplineError for an image that cannot be read, or for the disk."""
    text = render(answers, path.resolve().parent)
    with output(path) as file:
        file.write(text.encode("utf-8", "replace"))


def render(answers: Sequence[Answer], folder: Path) -> str:
    """The page as text. folder: where the page will lie; its links to the images are relative to it."""
    title = escape(" · ".join(answer.title for answer in answers[:3]))
    thumbnail = lru_cache(None)(of_image)  # an image that several queries find is read once
    sections = "\n".join(_section(answer, folder, thumbnail) for answer in answers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{title} · clipline</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header><p>clipline search · best first, with the cosine of query and image</p></header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(answer: Answer, folder: Path, thumbnail: Thumbnail) -> str:
    query = f"images like {Path(answer.query).name}" if answer.image else f"“{answer.query}”"
    query += "".join(f", less “{text}”" for text in answer.without)
    picture = f'<img src="{thumbnail(answer.image)}" alt="the image searched for">' if answer.image else ""
    items = "\n".join(_item(rank, result, folder, thumbnail) for rank, result in enumerate(answer.results, 1))
    images = f"<ol>\n{items}\n</ol>" if items else '<p class="none">No image was found.</p>'
    return f"<section>\n<h1>{picture}<span>{escape(query)}</span></h1>\n{images}\n</section>"


def _item(rank: int, result: Result, folder: Path, thumbnail: Thumbnail) -> str:
    file = Path(result.file)
    link = escape(quote(os.fsencode(os.path.relpath(file.resolve(), folder)).replace(os.sep.encode(), b"/")))
    return (
        f'<li><a href="{link}"><img src="{thumbnail(file)}" alt="" loading="lazy">'
        f'<span class="facts"><b>{result.score:.3f}</b><span>{rank}</span></span>'
        f'<span class="name">{escape(result.path)}</span></a></li>'
    )
