"""What a search found as one HTML page: thumbnails inside it, no script, nothing fetched from anywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from clipline.pictures import thumbnails
from clipline.search.searcher import Answer, Result
from clipline.utils.files import output

# Only these styles and the thumbnails: whatever a name or a query holds, the page fetches and runs nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { --paper: #fcfcfb; --ink: #1b1d21; --soft: #5b616b; --line: #dfe2e7; --fill: #eef1f5; --link: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171a; --ink: #e8eaed; --soft: #a3a9b3; --line: #33383f; --fill: #262a30; --link: #5ab4e5; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
header p { margin: 0; color: var(--soft); font-size: .9rem; }
section + section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
h1 {
  display: flex; align-items: center; gap: 1rem; margin: .4rem 0 1rem; overflow-wrap: anywhere;
  font-size: clamp(1.25rem, 4vw, 1.7rem); line-height: 1.25;
}
h1 span { min-width: 0; }
h1 img { flex: none; width: 5rem; height: 5rem; object-fit: contain; background: var(--fill); border-radius: .5rem; }
ol {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1.1rem .9rem; margin: 0; padding: 0;
}
li { list-style: none; min-width: 0; }
a { display: block; color: inherit; text-decoration: none; border-radius: .5rem; }
a:hover .name, a:focus-visible .name { color: var(--link); text-decoration: underline; }
a:focus-visible { outline: 3px solid var(--link); outline-offset: 3px; }
li img {
  display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--fill);
  border: 1px solid var(--line); border-radius: .5rem;
}
.facts { display: flex; justify-content: space-between; margin-top: .35rem; font-variant-numeric: tabular-nums; }
.facts b { font-weight: 600; }
.facts span, .name { color: var(--soft); font-size: .85rem; }
.name { display: block; line-height: 1.35; overflow-wrap: anywhere; }
.none { color: var(--soft); }
@media (max-width: 36rem) {
  body { padding: 1rem .9rem 3rem; }
  ol { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .9rem .7rem; }
}
@media print { ol { grid-template-columns: repeat(5, 1fr); } li { break-inside: avoid; } }
"""


def write(answers: Sequence[Answer], path: Path) -> None:
    """Write the page, whole or not at all. Raises CliplineError for an image that cannot be read, or for the disk."""
    text = render(answers, path.resolve().parent)
    with output(path) as file:
        file.write(text.encode("utf-8", "replace"))


def render(answers: Sequence[Answer], home: Path) -> str:
    """The page as text. home: the folder that it will lie in, from which its links lead to the images."""
    title = escape(" · ".join(answer.title for answer in answers[:3]))
    shown: dict[Path, str] = {}  # an image that several queries find is read once
    sections = "\n".join(_section(answer, home, shown) for answer in answers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{title} · clipline</title>
<style>{STYLE}</style>
</head>
<body>
<header><p>clipline search · best first, with the cosine of query and image</p></header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(answer: Answer, home: Path, shown: dict[Path, str]) -> str:
    query = f"images like {Path(answer.query).name}" if answer.image else f"“{answer.query}”"
    query += "".join(f", less “{text}”" for text in answer.without)
    asked = f'<img src="{_thumbnail(answer.image, shown)}" alt="the image searched for">' if answer.image else ""
    items = "\n".join(_item(rank, result, home, shown) for rank, result in enumerate(answer.results, 1))
    found = f"<ol>\n{items}\n</ol>" if items else '<p class="none">No image was found.</p>'
    return f"<section>\n<h1>{asked}<span>{escape(query)}</span></h1>\n{found}\n</section>"


def _item(rank: int, result: Result, home: Path, shown: dict[Path, str]) -> str:
    file = Path(result.file)
    link = escape(quote(os.fsencode(os.path.relpath(file.resolve(), home)).replace(os.sep.encode(), b"/")))
    return (
        f'<li><a href="{link}"><img src="{_thumbnail(file, shown)}" alt="" loading="lazy">'
        f'<span class="facts"><b>{result.score:.3f}</b><span>{rank}</span></span>'
        f'<span class="name">{escape(result.path)}</span></a></li>'
    )


def _thumbnail(file: Path, shown: dict[Path, str]) -> str:
    if file not in shown:
        shown[file] = thumbnails.of_image(file)
    return shown[file]
