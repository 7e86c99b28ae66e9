"""The page holds the figures of the JSON files, needs nothing but itself, and shows captions as what they are: text."""

import base64
import dataclasses
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError
from PIL import Image

from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.report import page, phrases, summary, templates


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words, self.tables, self._skip = [], [], [], False
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._skip = tag == "style"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self._skip = False
        if tag == "table":
            self.tables.append([[""]])  # what follows is in no cell

    def handle_data(self, data):
        if self._skip:
            return
        self.words.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def data(workspace):
    return Prepared(workspace / "data/prepared")


@pytest.fixture(scope="module")
def shown(summarised, data, workspace):
    return Page(page.render(summarised, data, workspace))


def test_it_needs_nothing_but_itself(shown):
    pictures = shown.all("img")
    assert len(pictures) > 20
    for picture in pictures:
        kind, data = picture["src"].split(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert kind == f"data:image/{image.format.lower()}" and image.width > 0
        assert "alt" in picture
    assert {tag for tag, _ in shown.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert all(link["href"].startswith("#") for link in shown.all("a"))
    sections = {section.get("id") for section in shown.all("section")}
    assert {link["href"].removeprefix("#") for link in shown.all("a")} == sections
    (policy,) = (meta["content"] for meta in shown.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)


def test_captions_of_a_stranger_stay_text(shown, summarised):
    hostile = summarised.examples.sample[0].query
    assert "<script>alert(1)</script>" in hostile and "http://example.com/x.png" in hostile
    assert " ".join(hostile.split()) in shown.text
    assert "example.com" not in json.dumps(shown.tags)


def test_no_style_asks_the_network(summarised, data, workspace):
    text = page.render(summarised, data, workspace)
    assert re.findall(r"url\(|@import", text) == []
    assert text == page.render(summarised, data, workspace), "the same summary gives the same page"


def test_the_results_are_those_of_the_json_files(shown, workspace):
    figures = json.loads((workspace / "reports/metrics.json").read_text())["test"]
    row = [f"{figures[f'{direction}_r{k}']:.1f}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]
    results = {line[0]: line[1:] for line in shown.tables[0][2:]}
    assert results == {name: row for name in ("tiny (torch)", "tiny (ONNX, fp32)", "tiny (ONNX, images in fp16)")}
    assert "Nothing is published for this test split" in shown.text
    assert f"{figures['t2i_r1']:.1f}% of captions find their own image first" in shown.text


def test_flickr8k_stands_beside_what_is_published(summarised, data, workspace):
    known = summary.known()["references"]["flickr8k"]
    beside = Page(page.render(dataclasses.replace(summarised, references=known), data, workspace))
    results = {line[0]: line[1:] for line in beside.tables[0][2:]}
    assert results["NAA ResNet"] == ["37.2", "68.1", "79.1", "27.7", "59.6", "71.8"]
    assert results["2WayNet"] == ["43.4", "63.2", "-", "29.3", "49.7", "-"]
    assert known["note"] in beside.text


def test_gates_passed_and_missed(shown):
    (table,) = (table for table in shown.tables if table[0][0] == "graph")
    rows = {line[0]: line[1:] for line in table[1:]}
    assert rows["image.onnx"] == ["✓ passed", "0.999990≥ 0.9999", "1.0e-06≤ 1e-04", "+0.00≥ −0.1", "2.5 MB", "789"]
    assert rows["image.fp16.onnx"][3:] == ["-0.05≥ −0.1", "2.5 MB", "1,234"]
    assert rows["image.int8.onnx"] == ["✗ not shipped: R@1 <falls> by 3.0 points", "-", "-", "-", "-", "-"]


def test_where_the_time_went(shown, summarised):
    assert phrases.phases(summarised) == {"reading data": 63.0, "validation": 1.0}
    assert "Where the 1 min 04 s of training went" in shown.text
    assert "98.4%" in shown.text


def test_how_to_make_it_again(shown, summarised, workspace):
    assert f"git checkout {'0' * 40} dvc exp run -S data=scenes -S recipe=tiny -S train.seed=7" in shown.text
    assert "Code or settings differed from this commit" in shown.text
    assert f"bit for bit: SHA-256 {summarised.weights}" in shown.text
    assert "dvc.lock then names them by the same hashes too. models/run.json differs" in shown.text
    on_gpu = phrases.determinism(dataclasses.replace(summarised, tags={**summarised.tags, "device": "cuda"}))
    assert "not the same bits" in on_gpu and f"SHA-256 {summarised.weights}" in on_gpu
    outside = dataclasses.replace(summarised, tags={**summarised.tags, "git_revision": "unknown"})
    assert outside.revision is None and "git checkout" not in phrases.commands(outside)
    checked = subprocess.run(
        ["sha256sum", workspace / "models/checkpoint/model.safetensors"], capture_output=True, text=True, check=True
    )
    assert checked.stdout.split()[0] == summarised.weights
    assert "0123456789abcdef.dir (dvc.lock)" in shown.text
    assert f"numpy {summarised.versions['numpy']}" in shown.text and "secret.bin" not in shown.text


def test_what_was_left_out(shown, summarised):
    assert phrases.left_out(summarised) == [] and "Nothing was left out. No image is in two splits." in shown.text
    images = {"left out": {"in no split": {"count": 1091}, "without captions": {"count": 0}}}
    other = dataclasses.replace(summarised, prepared={**summarised.prepared, "images": images})
    assert phrases.left_out(other) == ["1,091 images (in no split)"]


def test_the_text_tower_that_has_seen_the_captions(shown, summarised):
    assert summarised.caveat in shown.text and "overlap Flickr8k's" in summarised.caveat


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("reports/examples.json", "evaluate"),
        ("reports/export.json", "export"),
        ("models/run.json", "train"),
        ("models/checkpoint/model.safetensors", "train"),
        ("reports/train.csv", "train"),
    ],
)
def test_a_missing_file_is_named_with_the_stage_that_makes_it(workspace, data, gates, name, stage):
    path = workspace / name
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(CliplineError, match=rf"{re.escape(name)}: no such file\. Fix: dvc repro {stage}"):
            summary.gather(workspace, data, gates)
    finally:
        path.write_bytes(content)


def test_a_name_that_the_template_does_not_know_is_no_blank():
    with pytest.raises(UndefinedError, match="no attribute 'info'"):
        templates.fill("card.md.j2", escape=False, summary={}, phrases=phrases)


@pytest.mark.parametrize(("seconds", "words"), [(0.04, "0.0 s"), (59.9, "1 min 00 s"), (3725, "1 h 02 min")])
def test_durations(seconds, words):
    assert templates.duration(seconds) == words


def test_the_package_needs_neither_torch_nor_dvc_nor_mlflow():
    code = (
        "import sys, clipline.report.page, clipline.report.card, clipline.report.pick_examples\n"
        "import clipline.report.figures\n"
        "print([name for name in ('torch', 'dvc', 'mlflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
