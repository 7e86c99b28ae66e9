"""`clipline app` as a person uses it: a real server, a real browser, the mouse, the keyboard and a phone's width."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.runtime.model import OnnxModel

SCRIPT = "z ${document.title='caught'}<img src=x onerror=document.title='caught'>.png"
# Whether each image that is on the screen has its pixels.
DRAWN = """part => { const images = [...document.querySelectorAll(part + ' .shot img')];
    return images.length > 0 && images.every(image => image.complete && image.naturalWidth > 0) }"""
COLUMNS = """part => new Set([...document.querySelectorAll(part + ' .tile')].map(tile => tile.offsetLeft)).size"""
SCORES = """() => [...document.querySelectorAll('#results .score')].map(score => +score.innerText)"""
# As a file manager does it: a file let go above the page, wherever that is.
DROP = """bytes => { const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], 'blue.png', {type: 'image/png'}));
    for (const kind of ['dragover', 'drop'])
        document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true})) }"""
FOCUS = """() => { const at = document.activeElement, style = getComputedStyle(at);
    return [at.getAttribute('aria-label') || at.innerText || at.title || at.placeholder, style.outlineStyle] }"""


@pytest.fixture(scope="module")
def folder(make_bundle, tmp_path_factory) -> Path:
    """`photos` with 20 shades from red to blue and a name that is a script, embedded into `index` by `onnx`."""
    made = tmp_path_factory.mktemp("app")
    photos = made / "photos"
    photos.mkdir()
    for number, angle in enumerate(np.linspace(0, np.pi, 20)):
        colour = (round(125 + 125 * np.cos(angle)), round(250 * np.sin(angle)), round(125 - 125 * np.cos(angle)))
        Image.new("RGB", (640, 480) if number % 3 else (300, 500), colour).save(photos / f"{number:02d}.png")
    Image.new("RGB", (300, 300), (200, 90, 30)).save(photos / SCRIPT)
    embed(
        Folder(photos),
        OnnxModel(make_bundle(made / "onnx"), provider="cpu", threads=1),
        made / "index",
        Options(threads=1),
    )
    return made


@pytest.fixture(scope="module")
def app(chromium, folder, bench, outside) -> Iterator[str]:
    """The address of the page."""
    with bench.served(str(folder / "index"), environment=os.environ | outside.environment) as (url, _):
        yield url


@pytest.fixture
def shown(page, app):
    """The page, opened at 1280 pixels; afterwards, nothing was asked of another host, and no script ran."""
    page.set_viewport_size({"width": 1280, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(app)
    page.locator("#results .tile").first.wait_for()
    yield page
    addresses = [urlsplit(address) for address in page.requested]
    assert {address.hostname for address in addresses if address.scheme not in ("data", "blob")} == {"127.0.0.1"}
    assert faults == []
    assert page.title() == "photos · clipline"


def ask(page, words: str) -> None:
    """Type words and press Enter."""
    page.get_by_label("Describe an image").fill(words)
    page.keyboard.press("Enter")
    page.locator("#results h2").filter(has_text=f"“{words}”").wait_for()
    page.wait_for_function(DRAWN, arg="#results")


def choose(page, number: int) -> None:
    """Press `Use` below an image that was found."""
    page.locator("#results .use").nth(number).click()
    page.locator("#near .tile").first.wait_for()


def test_words(shown, tmp_path):
    assert shown.get_by_role("heading", level=1).inner_text() == "photos"
    assert "21 images" in shown.locator("header").inner_text()
    assert shown.evaluate(FOCUS)[0] == "Describe what you look for", "one can type at once"
    shown.keyboard.type("a red picture")
    shown.keyboard.press("Enter")
    shown.locator("#results h2").filter(has_text="“a red picture”").wait_for()
    shown.wait_for_function(DRAWN, arg="#results")
    assert shown.locator("#results .tile").count() == 9
    assert shown.evaluate(COLUMNS, "#results") == 3
    scores = shown.evaluate(SCORES)
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.99
    shown.screenshot(path=tmp_path / "words.png", full_page=True)

    where, on = shown.locator("#results .where"), shown.get_by_role("button", name="Next →")
    assert where.inner_text() == "1 to 9 of 21"
    on.click()
    where.filter(has_text="10 to 18 of 21").wait_for()
    assert min(scores) >= max(shown.evaluate(SCORES))
    on.click()
    where.filter(has_text="19 to 21 of 21").wait_for()
    assert on.is_disabled() and shown.locator("#results .tile").count() == 3
    shown.get_by_role("button", name="← Previous").click()
    where.filter(has_text="10 to 18").wait_for()

    with shown.context.expect_page() as opened:
        shown.locator("#results .shot").first.click()
    opened.value.wait_for_load_state()
    assert opened.value.evaluate("document.images[0].naturalWidth") in (300, 640), "full size"
    opened.value.close()

    shown.get_by_role("button", name="something red").click()
    shown.locator("#results h2").filter(has_text="something red").wait_for()
    assert shown.get_by_label("Describe an image").input_value() == "something red"


def test_an_image_its_labels_and_its_captions(shown, folder, tmp_path):
    shown.get_by_role("tab", name="Image", exact=True).click()
    shown.get_by_text("No image yet").wait_for()
    shown.screenshot(path=tmp_path / "no-image.png")
    shown.get_by_role("tab", name="Words").click()
    ask(shown, "red")
    choose(shown, 0)
    assert shown.locator("#near h2").inner_text() == "Like 00.png"
    assert shown.locator("#near .name").first.inner_text() == "01.png"

    shown.get_by_label("Choose an image file").set_input_files(folder / "photos" / "19.png")
    shown.locator("#near h2").filter(has_text="Like your image").wait_for()
    assert shown.locator("#near .name").first.inner_text() == "19.png"
    shown.wait_for_function("() => document.querySelector('#slot img').naturalWidth > 0")
    shown.screenshot(path=tmp_path / "similar.png")

    shown.get_by_role("tab", name="Labels").click()
    shown.get_by_label("Labels, separated by commas").fill("red, blue, <b>green</b>")
    shown.keyboard.press("Enter")
    bars = shown.locator("#labels-result li")
    bars.first.wait_for()
    assert bars.first.inner_text().startswith("blue") and bars.count() == 3
    assert "<b>green</b>" in shown.locator("#labels-result").inner_text()
    shown.screenshot(path=tmp_path / "labels.png")

    shown.get_by_role("tab", name="Captions").click()
    shown.get_by_label("Captions, one on each line").fill("a red picture\na blue picture")
    shown.get_by_role("tabpanel").get_by_role("button", name="Which fits best?").locator("visible=true").click()
    bars = shown.locator("#captions-result li")
    bars.first.wait_for()
    assert bars.first.inner_text().startswith("a blue picture")
    shown.screenshot(path=tmp_path / "captions.png")


def test_a_file_dropped_on_the_words(shown, folder):
    shown.evaluate(DROP, list((folder / "photos" / "19.png").read_bytes()))
    shown.locator("#near h2").filter(has_text="Like your image").wait_for()
    assert shown.locator("#near .name").first.inner_text() == "19.png"


def test_what_goes_wrong_is_said(shown, app, folder, tmp_path):
    shown.get_by_role("button", name="Search").click()
    shown.get_by_text("Type what to look for, then press Enter.").wait_for()
    shown.get_by_label("Describe an image").fill("red " * 30)
    shown.keyboard.press("Enter")
    shown.get_by_text("is longer than the model reads").wait_for()

    kept = (folder / "photos" / "01.png").rename(folder / "away.png")
    try:
        ask(shown, "red")
        assert shown.locator("#results .gone").inner_text() == "Not on disk any more"
        assert shown.locator("#results .shot img").count() == 8
        shown.screenshot(path=tmp_path / "gone.png")
    finally:
        kept.rename(folder / "photos" / "01.png")

    (tmp_path / "broken.png").write_bytes(b"this is no image")
    shown.get_by_role("tab", name="Image", exact=True).click()
    shown.get_by_label("Choose an image file").set_input_files(tmp_path / "broken.png")
    shown.get_by_text("This file cannot be used: not an image").wait_for()
    shown.get_by_role("tab", name="Labels").click()
    shown.locator("#labels-go").click()
    shown.get_by_text("Choose an image first").wait_for()
    shown.screenshot(path=tmp_path / "broken.png")

    # A full queue, and a server that is gone.
    shown.get_by_role("tab", name="Words").click()
    busy = {"status": 503, "content_type": "application/json", "body": '{"detail": "Queue is full."}'}
    shown.route("**/queue/join*", lambda route: route.fulfill(**busy))
    shown.get_by_role("button", name="Search").click()
    shown.get_by_text("This application is currently busy. Please try again.").wait_for()
    shown.screenshot(path=tmp_path / "busy.png")
    shown.unroute("**/queue/join*")
    shown.route("**/queue/join*", lambda route: route.abort())
    shown.get_by_role("button", name="Search").click()
    shown.get_by_text("Connection to the server was lost").wait_for()
    shown.unroute("**/queue/join*")


def test_a_name_that_is_a_script_is_a_name(shown):
    ask(shown, "red")
    for _ in range(2):
        shown.get_by_role("button", name="Next →").click()
    shown.get_by_role("button", name="something red").click()
    shown.locator("#results .name").filter(has_text="onerror").first.wait_for()
    shown.locator(".tile").filter(has_text="onerror").locator(".use").click()
    shown.locator("#near h2").filter(has_text="${document.title").wait_for()


def test_by_keyboard_alone(shown):
    seen = []
    for _ in range(8):
        seen.append(shown.evaluate(FOCUS))
        shown.keyboard.press("Tab")
    names = [name for name, _ in seen]
    assert names[0] == "Describe what you look for" and names[1] == "Search"
    assert names[2:6] == ["two dogs play in the snow", "people near the water", "a child on a swing", "something red"]
    assert "00.png: open full size" in names[6]
    assert names[7] == "Use 00.png: find similar images, labels, captions"
    assert {outline for _, outline in seen} == {"solid"}, "one sees where one is"
    shown.keyboard.press("Shift+Tab")
    shown.keyboard.press("Enter")
    shown.locator("#near h2").filter(has_text="Like 00.png").wait_for()
    assert shown.get_by_role("tab", name="Image", exact=True).get_attribute("aria-selected") == "true"


def test_screen_readers_are_told(shown):
    ask(shown, "blue")
    shown.get_by_role("status").filter(has_text="“blue” 1 to 9 of 21").first.wait_for(state="attached")
    assert all(image.get_attribute("alt") for image in shown.locator("#results img").all())
    named = shown.locator("button, input, textarea").evaluate_all(
        """all => all.filter(one => one.offsetWidth).filter(one =>
            !(one.innerText || one.ariaLabel || one.labels?.[0]?.innerText)).map(one => one.outerHTML)"""
    )
    assert named == [], "each has a name"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(shown, app, tmp_path, scheme):
    shown.set_viewport_size({"width": 390, "height": 844})
    shown.emulate_media(color_scheme=scheme)
    shown.goto(app)
    shown.locator("#results .tile").first.wait_for()
    ask(shown, "red")
    assert shown.evaluate("document.documentElement.scrollWidth") == 390, "nothing beside the screen"
    assert shown.evaluate(COLUMNS, "#results") == 2
    assert shown.locator(".use").first.bounding_box()["height"] >= 32
    assert shown.get_by_role("button", name="Search").bounding_box()["width"] > 60
    shown.screenshot(path=tmp_path / f"phone-{scheme}.png", full_page=True)
    choose(shown, 1)
    assert shown.evaluate("document.documentElement.scrollWidth") == 390
    assert shown.evaluate("window.scrollY") < 300, "the image is in sight"
    shown.screenshot(path=tmp_path / f"phone-image-{scheme}.png")
    background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(",")[:3])) < 200) == (scheme == "dark")


def test_new_embeddings_are_followed(shown, folder):
    Image.new("RGB", (90, 60), (255, 0, 0)).save(folder / "photos" / "new.png")
    embed(
        Folder(folder / "photos"),
        OnnxModel(folder / "onnx", provider="cpu", threads=1),
        folder / "index",
        Options(threads=1),
    )
    shown.wait_for_timeout(1100)  # how often the server looks
    ask(shown, "red")
    assert shown.locator("#results .where").inner_text() == "1 to 9 of 22"
    assert "22 images" in shown.locator("header").inner_text()
    assert "new.png" in shown.locator("#results").inner_text()


def test_the_server_asked_nothing_of_other_machines(app, outside):
    assert outside.asked == []
