"""HTML for the values that the page shows. All text from outside is escaped here; Gradio does not escape it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from clipline.app.library import Library
from clipline.app.views import Ranking, View


def header(library: Library) -> str:
    """The title: the folder's name and how many images it has."""
    edition = library.latest
    count = f"{len(edition.index):,} image{'' if len(edition.index) == 1 else 's'}"
    recipe = escape(edition.model.bundle.manifest.recipe)
    return (
        f'<header class="top"><h1>{escape(library.title)}</h1>'
        f"<p>{count}<span> · embedded by {recipe}</span></p>"
        '<div><p class="problem" role="alert"></p></div></header>'
    )


def gallery(view: View) -> str:
    """A page of images with ranks and scores, below a heading with the query."""
    last = view.tiles[-1].rank if view.tiles else 0
    where = f"{view.tiles[0].rank:,} to {last:,} of {view.total:,}" if view.tiles else ""
    if view.total < view.of and last == view.total:
        where += f" best; the folder has {view.of:,}"
    head = f'<div class="head"><h2>{escape(_shorten(view.title))}</h2><span class="where">{where}</span></div>'
    if not view.tiles:
        return head + _notes(view.notes) + empty("No images", "This folder has no embedded images yet.")
    return f'{head}{_notes(view.notes)}<ol class="tiles">{"".join(_tile(view, i) for i in range(len(view.tiles)))}</ol>'


def ranking(ranking: Ranking) -> str:
    """Texts with bars, most likely first."""
    rows = "".join(
        f'<li><span class="text">{escape(text)}</span><span class="percent">{_percent(share)}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.2f}%"></i></span></li>'
        for text, share in ranking.texts
    )
    among = "Probabilities are among these texts alone." if len(ranking.texts) > 1 else "Give two or more to compare."
    return f'<ol class="bars">{rows}</ol><p class="hint">{among}</p>{_notes(ranking.notes)}'


def empty(title: str, text: str) -> str:
    """A message where there is nothing to show."""
    return f'<div class="empty"><p class="big">{escape(title)}</p><p>{escape(text)}</p></div>'


def trouble(text: str) -> str:
    """An error message."""
    return f'<div class="trouble" role="alert"><p>{escape(text)}</p></div>'


def picture(token: str) -> str:
    """The drop zone with the chosen picture, or without one. token: as `Views.near` takes it, or empty."""
    kind, _, rest = token.partition(":")
    source = f"pictures/upload/{rest}" if kind == "upload" else f"pictures/thumb/{rest.replace(':', '/')}"
    shown = f'<img src="{escape(source)}" alt="The chosen image">' if token else ""
    words = "Choose another image" if token else "Drop an image here, paste one, or click to choose"
    return (
        f'<label class="drop{" full" if token else ""}">{shown}<span class="words">{words}</span>'
        '<input type="file" accept="image/*" aria-label="Choose an image file"></label>'
        '<div><p class="problem" role="alert"></p></div>'
    )


def _tile(view: View, number: int) -> str:
    tile = view.tiles[number]
    name, image = escape(tile.path.rpartition("/")[2]), f"{view.edition}/{tile.row}"
    score = "" if tile.score is None else f'<span class="score" title="Cosine similarity">{tile.score:.3f}</span>'
    if not tile.gone:
        shot = (
            f'<a class="shot" href="pictures/full/{image}" target="_blank" rel="noopener" title="{escape(tile.path)}: '
            f'open full size"><img src="pictures/thumb/{image}" alt="{escape(tile.path)}" loading="lazy"></a>'
        )
    else:
        shot = f'<div class="shot gone" title="{escape(tile.path)}"><span>{escape(tile.gone.capitalize())}</span></div>'
    return (
        f'<li class="tile">{shot}<div class="line"><span class="rank">{tile.rank:,}</span>{score}'
        f'<button type="button" class="use" data-picture="row:{view.edition}:{tile.row}" '
        f'aria-label="Use {name}: find similar images, labels, captions">Use</button></div>'
        f'<div class="name">{name}</div></li>'
    )


def _notes(notes: list[str]) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _shorten(text: str, length: int = 90) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


def chips(queries: Sequence[str]) -> str:
    """Example queries to click."""
    buttons = "".join(f'<button type="button" data-query="{escape(text)}">{escape(text)}</button>' for text in queries)
    return f'<div class="chips" role="group" aria-label="Examples"><span>Try</span>{buttons}</div>'
