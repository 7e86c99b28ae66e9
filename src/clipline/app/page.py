"""The page in Gradio: its elements, and what their events call. The server keeps no state of a user between calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from clipline.app import html
from clipline.app.library import Library
from clipline.app.views import MAX_TEXT, View, Views
from clipline.errors import CliplineError
from clipline.utils import cores

HERE = Path(__file__).parent
EXAMPLES = ("two dogs play in the snow", "people near the water", "a child on a swing", "something red")
MAX_WAITING = 100  # calls in the queue; the next one gets the answer that the page is busy
SESSIONS = 256  # whose last values Gradio keeps, about 0.1 MB each; the page does not need them
PLAIN = (str, int, float, bool, type(None))


class Page(gr.Blocks):
    """Blocks whose calls accept plain values only.

    Gradio searches each value for descriptions of files, and copies or even downloads what they name.
    """

    async def preprocess_data(self, block_fn, inputs: list[Any], *args, **kwargs) -> list[Any]:
        """Raises gr.Error for values that the page never sends."""
        for value in inputs:
            parts = [*value.values()] if isinstance(value, dict) else [value]
            if not all(isinstance(part, PLAIN) for part in parts) or (isinstance(value, dict) and "path" in value):
                raise gr.Error("unexpected value")
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def build(library: Library, views: Views) -> Page:
    """The page for a library."""
    page = Page(analytics_enabled=False, title=f"{library.title} · clipline", delete_cache=None)
    page.state_session_capacity = SESSIONS
    with page:
        top = _part(elem_id="top", js_on_load=_file("upload.js"))
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Words", id="words"):
                query, ask, chips, results = _words_tab()
            with gr.Tab("Image", id="image"):
                slot, near, label, caption = _image_tab()
        _wire_words(page, library, views, top, query, ask, chips, results)
        _wire_image(views, tabs, top, slot, results, near)
        for (text, button, ranking), rank in ((label, views.labels), (caption, views.captions)):
            gr.on([text.submit, button.click], _ranked(rank), [slot, text], ranking, **QUIET)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=4 * max(2, cores.available()))
    return page


# One queue for all calls: with one for each kind, frequent kinds would wait longer.
QUIET = {"show_progress": "hidden", "api_visibility": "private", "concurrency_id": "answers"}


def _part(value: Any = "", **options: Any) -> gr.HTML:
    """A piece of HTML that only style.css styles."""
    return gr.HTML(value, apply_default_css=False, padding=False, **options)


class Gallery:
    """A grid of images with its pager. Its value {"html", "about", "page"} is sent back with each call."""

    def __init__(self, name: str, start: str) -> None:
        self.grid = _part(
            _shown(start), html_template="${value.html}", elem_id=name, elem_classes="gallery",
            js_on_load=_file("gallery.js"),
        )  # fmt: skip
        with gr.Row(elem_classes="pager"):
            self.back = gr.Button("← Previous", visible=False, elem_id=f"{name}-back")
            self.on = gr.Button("Next →", visible=False, elem_id=f"{name}-next")
        self.outputs = [self.grid, self.back, self.on]

    def wire(self, views: Views) -> None:
        """Connect the pager."""
        for button, step in ((self.back, -1), (self.on, 1)):

            def turn(shown: dict, step: int = step) -> list:
                about, page = str(shown.get("about", "")), shown.get("page", 0)
                return self.show(lambda: views.turn(about, (page if isinstance(page, int) else 0) + step))

            button.click(turn, self.grid, self.outputs, **QUIET)

    def show(self, find: Callable[[], View]) -> list:
        """Values for `outputs`; an error is shown in the place of the images."""
        try:
            view = find()
        except CliplineError as error:
            return [_shown(html.trouble(str(error))), gr.Button(visible=False), gr.Button(visible=False)]
        return [
            _shown(html.gallery(view), view.about, view.page),
            gr.Button(visible=view.pages > 1, interactive=view.page > 0),
            gr.Button(visible=view.pages > 1, interactive=view.page + 1 < view.pages),
        ]


def _words_tab() -> tuple[gr.Textbox, gr.Button, gr.HTML, Gallery]:
    with gr.Row(elem_classes="ask"):
        query = gr.Textbox(
            placeholder="Describe what you look for", label="Describe an image", show_label=False,
            max_lines=1, max_length=MAX_TEXT, autofocus=True, container=False, scale=5, elem_id="query",
        )  # fmt: skip
        button = gr.Button("Search", variant="primary", scale=0, min_width=110, elem_id="search")
    chips = _part(html.chips(EXAMPLES), elem_id="chips", js_on_load=_file("chips.js"))
    return query, button, chips, Gallery("results", html.empty("One moment", "The folder is being opened."))


def _image_tab() -> tuple[gr.HTML, Gallery, tuple, tuple]:
    with gr.Row(elem_classes="ask-image"):
        with gr.Column(scale=2, min_width=280):
            slot = _part(
                {"html": html.picture(""), "picture": ""}, html_template="${value.html}", elem_id="slot",
                js_on_load=_file("slot.js"),
            )  # fmt: skip
        with gr.Column(scale=5, min_width=320), gr.Tabs(elem_id="about"):
            with gr.Tab("Similar images"):
                near = Gallery("near", html.empty("No image yet", "Drop one, or press “Use” below one that you found."))
            with gr.Tab("Labels"):
                label = _ranking_form(
                    "labels", "Labels, separated by commas", "dog, cat, beach, city at night", 1, "Which fits best?"
                )
            with gr.Tab("Captions"):
                caption = _ranking_form(
                    "captions", "Captions, one on each line", "a dog runs on the beach\na man rides a bike", 4,
                    "Which fits best?",
                )  # fmt: skip
    return slot, near, label, caption


def _ranking_form(name: str, title: str, example: str, lines: int, action: str) -> tuple:
    text = gr.Textbox(
        label=title, placeholder=example, lines=lines, max_lines=max(1, 3 * lines), elem_id=name, max_length=20_000,
        info="Shift and Enter sends" if lines > 1 else None,
    )  # fmt: skip
    button = gr.Button(action, variant="primary", elem_id=f"{name}-go")
    return text, button, _part(elem_id=f"{name}-result", elem_classes="result")


def _wire_words(
    page: Page, library: Library, views: Views, top: gr.HTML, query: gr.Textbox, ask: gr.Button, chips: gr.HTML,
    results: Gallery,
) -> None:  # fmt: skip
    def show(find: Callable[[], View]) -> list:
        shown = results.show(find)
        # After the search, which looks for new embeddings.
        return [html.header(library), *shown]

    def search(text: str) -> list:
        return show(lambda: views.words(text or ""))

    def example(event: gr.EventData) -> list:
        text = _sent(event, "query")
        return [text, *search(text)]

    page.load(lambda: show(views.folder), None, [top, *results.outputs], **QUIET)
    gr.on([query.submit, ask.click], search, query, [top, *results.outputs], **QUIET)
    chips.ask(example, None, [query, top, *results.outputs], **QUIET)
    results.wire(views)


def _wire_image(views: Views, tabs: gr.Tabs, top: gr.HTML, slot: gr.HTML, results: Gallery, near: Gallery) -> None:
    def choose(event: gr.EventData) -> list:
        picture = _sent(event, "picture")
        shown = near.show(lambda: views.near(picture))
        if not shown[0]["about"]:  # gone or forgotten
            picture = ""
        return [gr.Tabs(selected="image"), {"html": html.picture(picture), "picture": picture}, *shown]

    for chosen in (top.chosen, results.grid.use, near.grid.use):
        chosen(choose, None, [tabs, slot, *near.outputs], **QUIET)
    near.wire(views)


def _ranked(rank: Callable) -> Callable[[dict, str], str]:
    def run(slot: dict, text: str) -> str:
        try:
            return html.ranking(rank(str(slot.get("picture", "")), text or ""))
        except CliplineError as error:
            return html.trouble(str(error))

    return run


def _sent(event: gr.EventData, name: str) -> str:
    """A value that the page's script sent; it comes from outside, so it may be anything."""
    sent = event._data if isinstance(event._data, dict) else {}
    return str(sent.get(name, ""))


def _shown(content: str, about: str = "", page: int = 0) -> dict:
    return {"html": content, "about": about, "page": page}


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
