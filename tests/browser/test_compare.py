"""Two runs side by side, as a person sees them: `make ui` in a browser, and `clipline runs`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

RATE = "recipe.train.optimizer.lr.head"
EPOCHS = "recipe.train.epochs"
# What MLflow shows of a picture, and where on the page; its icons are data: addresses.
PICTURES = """() => [...document.images].filter(image => !image.src.startsWith('data:') && image.offsetWidth)
    .map(image => ({pixels: image.naturalWidth, ...image.getBoundingClientRect().toJSON()}))"""
# Whether a chart holds this curve.
IS_DRAWN = """curve => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data).some(({x, y}) =>
    String(x) == String(curve.steps) && y && y.every((value, row) => Math.abs(value - curve.values[row]) < 1e-9))"""


def open_comparison(page, link: str) -> None:
    """From the link that `make ui` prints: tick two runs, press Compare."""
    page.goto(link)
    boxes = page.get_by_role("checkbox", name="Press Space to toggle row selection")
    boxes.nth(1).wait_for()
    close_assistant(page)
    for box in boxes.all():
        box.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").first.wait_for()


def close_assistant(page) -> None:
    """MLflow opens a panel at the first visit, and it leaves no room for the list of pictures."""
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()


def wait_for_curves(page, two) -> None:
    """The training losses of both runs are drawn over the steps."""
    for losses in two.losses:
        page.wait_for_function(IS_DRAWN, arg={"steps": two.steps, "values": losses})


def test_two_runs_are_compared(page, ui, two, tmp_path: Path) -> None:
    open_comparison(page, ui.link)
    page.screenshot(path=tmp_path / "compare.png")
    row = page.get_by_role("row").filter(has_text=RATE)
    row.wait_for()
    assert row.inner_text().split() == [RATE, "0.0005", "0.001"]  # the latest run first
    assert page.get_by_role("row").filter(has_text=EPOCHS).count() == 1
    page.get_by_role("switch", name="Parameters - Show diff only").click()
    page.get_by_role("row").filter(has_text=EPOCHS).wait_for(state="detached")
    assert row.is_visible()
    page.screenshot(path=tmp_path / "differences.png")

    assert page.get_by_role("link", name="test_t2i_r1").is_visible()
    shown = page.locator("body").inner_text().split()
    assert {"41", "42"} <= set(shown)

    entry = page.locator("li").filter(has_text="gallery.png").last
    entry.scroll_into_view_if_needed()
    entry.click(position={"x": 22, "y": 12})  # its icon: the name is cut off, however wide the window
    page.wait_for_function(f"() => ({PICTURES})().filter(picture => picture.pixels).length == 2")
    second, first = page.evaluate(PICTURES)
    wanted = [Image.open(two.folder / f"reports/{number}/gallery.png").width for number in (1, 2)]
    assert [first["pixels"], second["pixels"]] == wanted and wanted[0] != wanted[1]
    assert first["top"] == second["top"] and second["right"] <= first["left"]  # side by side
    assert min(first["height"], second["height"]) > 100
    page.screenshot(path=tmp_path / "galleries.png")

    page.get_by_role("link", name="train_loss").click()
    wait_for_curves(page, two)
    assert page.locator(".js-plotly-plot .scatterlayer .trace").first.is_visible()
    page.screenshot(path=tmp_path / "curves.png")

    addresses = [urlsplit(address) for address in page.requested]
    assert {address.hostname for address in addresses if address.scheme not in ("data", "blob")} == {"127.0.0.1"}
    assert ui.outside.asked == []


def test_all_curves_are_one_click_from_the_link(page, ui, two, tmp_path: Path) -> None:
    page.goto(ui.link)
    page.locator("label:has(input[name='runs-view-mode'][value='CHART'])").click()
    wait_for_curves(page, two)
    assert page.locator(".js-plotly-plot .scatterlayer .trace").first.is_visible()
    page.screenshot(path=tmp_path / "charts.png")


def test_clipline_runs_shows_the_same(two) -> None:
    environment = two.environment | {"COLUMNS": "160"}

    def run(*arguments: str) -> str:
        command = ["clipline", "runs", *arguments]
        done = subprocess.run(command, cwd=two.folder, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    table = run()
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert lines[RATE] == ["0.0005", "0.001"]
    assert lines["test_t2i_r1"] == ["42", "41"]
    assert all(name[:8] in table for name in two.ids) and EPOCHS not in lines
    latest, first = json.loads(run("--json"))
    assert [first["id"], latest["id"]] == two.ids
    assert (first["settings"], latest["settings"]) == ({RATE: "0.001"}, {RATE: "0.0005"})
