"""`clipline classify` on images, embeddings and labelled trees."""

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

from clipline.classify.images import open_vectors
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.utils import cores
from tests import factories

LABELS = ("--labels", "red,green,blue")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """`photos` in the current folder: four images in two folders."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("sub/c.png", "green"), ("sub/d.png", (200, 90, 0))):
        factories.save(tmp_path / "photos" / name, colour)
    return tmp_path / "photos"


@pytest.fixture
def classify(scaled):
    def classify(*arguments):
        return factories.run("classify", *arguments, "--model", scaled, "--threads", "1", "--provider", "cpu")

    return classify


def fields(done) -> list[list[str]]:
    return [line.split("\t") for line in done.out.splitlines()]


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_in_a_pipe(photos, classify):
    done = classify("photos", *LABELS, "--template", "a {}")
    assert (done.code, done.err) == (0, "")
    rows = fields(done)
    assert [row[:2] for row in rows] == [
        ["photos/a.png", "red"],
        ["photos/b.png", "blue"],
        ["photos/sub/c.png", "green"],
        ["photos/sub/d.png", "red"],
    ]
    # Cosines 1, -1/2 and -1/2 at a scale of 2.
    assert float(rows[0][2]) == pytest.approx(0.9094, abs=1e-4)
    assert rows[0][3] == "green" and float(rows[0][4]) == float(rows[0][6]) == pytest.approx(0.0453, abs=1e-4)
    assert sum(float(text) for text in rows[3][2::2]) == pytest.approx(1, abs=2e-4)


def test_what_a_folder_holds_besides_is_noted(photos, classify):
    (photos / "b.png").rename(photos / "b")
    factories.save(photos / "@eaDir" / "a.png" / "thumbnail.png", "red")
    done = classify("photos", *LABELS)
    assert [row[0] for row in fields(done)] == ["photos/a.png", "photos/sub/c.png", "photos/sub/d.png"]
    assert "note: passed over: 1 without suffix (--include '*' takes such files); folders 1 @eaDir" in done.err
    assert [row[:2] for row in fields(classify("photos/b", *LABELS))] == [["photos/b", "blue"]], (
        "a file that is named is read"
    )


def test_files_and_top(photos, classify):
    rows = fields(classify("photos/b.png", "photos/a.png", *LABELS, "--top", "1"))
    assert [row[:2] for row in rows] == [["photos/b.png", "blue"], ["photos/a.png", "red"]]
    assert [len(row) for row in rows] == [3, 3]
    assert fields(classify("photos/a.png", *LABELS))[0][1] == "red"


def test_embeddings_are_classified_without_their_images(photos, classify, model, tmp_path):
    embed(Folder(photos), model, tmp_path / "index", Options(part_rows=3, dtype="float32"))
    expected = classify("photos", *LABELS).out
    assert classify("index", *LABELS).out == expected
    photos.rename(tmp_path / "moved")
    assert classify("index", *LABELS).out == expected
    moved = fields(classify("index", *LABELS, "--root", "moved"))
    assert [row[0] for row in moved] == ["moved/a.png", "moved/b.png", "moved/sub/c.png", "moved/sub/d.png"]


def test_embeddings_that_are_being_written(photos, classify, model, tmp_path):
    embed(Folder(photos), model, tmp_path / "index", Options())
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"complete": False}))
    done = classify("index", *LABELS)
    assert done.code == 0 and "not all images are in it" in done.err and len(fields(done)) == 4


def test_embeddings_of_another_model(photos, make_bundle, model, tmp_path):
    embed(Folder(photos), model, tmp_path / "index", Options())
    other = make_bundle(tmp_path / "other", model_id="other")
    done = factories.run("classify", "index", *LABELS, "--model", other)
    assert done.code == 2 and "made by model colours" in done.error


def test_a_folder_with_a_manifest_of_its_own_is_a_folder(photos, classify):
    (photos / "manifest.json").write_text("{}")
    assert len(fields(classify("photos", *LABELS))) == 4


def test_json(photos, classify):
    (photos / "e.png").write_text("no image")
    done = classify("photos", *LABELS, "--json", "--max-errors", "1")
    content = json.loads(done.out)
    assert [image["path"] for image in content] == ["a.png", "b.png", "sub/c.png", "sub/d.png", "e.png"]
    assert content[0]["file"] == "photos/a.png"
    assert content[0]["labels"][0]["label"] == "red" and 0.9 < content[0]["labels"][0]["probability"] < 0.92
    assert content[4] == {"path": "e.png", "stage": "decode", "error": "not an image that Pillow can read"}


def test_csv(photos, classify):
    (photos / "b.png").write_text("no image")
    done = classify("photos", *LABELS, "--csv", "new/labels.csv", "--top", "2", "--max-errors", "1")
    assert done.code == 0 and "written: new/labels.csv" in done.err
    rows = {row["path"]: row for row in table("new/labels.csv")}
    assert list(rows["a.png"]) == ["path", "label", "probability", "label_2", "probability_2", "error"]
    assert rows["sub/c.png"]["label"] == "green" and float(rows["sub/c.png"]["probability"]) > 0.9
    assert rows["b.png"]["label"] == "" and rows["b.png"]["error"] == "decode: not an image that Pillow can read"
    assert len(rows) == 4


def test_broken_images_are_counted_and_listed(photos, classify):
    for number in range(6):
        (photos / f"x{number}.png").write_text("no image")
    done = classify("photos", *LABELS, "--max-errors", "5")
    assert done.code == 3
    assert len(fields(done)) == 4, "the others are done"
    assert "6 of 10 images could not be used; --max-errors allows 5" in done.error
    assert "x0.png: decode: not an image" in done.error and "and 1 more" in done.error
    allowed = classify("photos", *LABELS, "--max-errors", "6")
    assert allowed.code == 0 and "note: 6 of 10 images could not be used:\n  x0.png" in allowed.err


def test_a_csv_that_cannot_be_written(photos, classify):
    (photos.parent / "file").write_text("")
    done = classify("photos", *LABELS, "--csv", "file/labels.csv")
    assert done.code == 1 and "cannot be written" in done.error


def test_what_is_noted(photos, bundle):
    done = factories.run("classify", "photos/a.png", "--labels", f"red,{'blue ' * 20}", "--model", bundle)
    assert done.code == 0
    assert "longer than the model reads" in done.err and "100 is assumed" in done.err


def test_a_template_that_leaves_no_room_for_its_label_is_noted(photos, classify):
    done = classify("photos/a.png", *LABELS, "--template", f"{'picture ' * 8}{{}}")
    assert done.code == 0
    assert done.err.count("note: `picture picture") == done.err.count("longer than the model reads") == 3


def test_threads_for_embeddings(photos, scaled, model, tmp_path):
    embed(Folder(photos), model, tmp_path / "index", Options())
    opened = open_vectors(["index"], model=scaled, provider="cpu", threads=cores.available() + 1)
    assert opened.model.running_on == f"CPU, {cores.available() + 1} threads"


def test_no_model(photos):
    done = factories.run("classify", "photos", *LABELS)
    assert done.code == 2 and "models/onnx: no such folder here. Fix: name the model's with --model" in done.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos",), "name the labels"),
        (("photos", "--labels", "red,caf\udce9"), "label 1 is not valid text: 'caf"),
        (("photos", *LABELS, "--template", "{} caf\udce9"), "the template is not valid text"),
        (("photos", *LABELS, "--template", "x"), r"has no {}"),
        (("photos", *LABELS, "--confusion", "c.png"), "add --evaluate"),
        (("none", *LABELS), "none: no such file"),
        (("none.png", *LABELS), "none.png: no such file"),
        (("photos", "photos/a.png", *LABELS), "photos: a folder; name one folder, or files"),
        (("photos/a.png", *LABELS, "--root", "photos"), "--root is for"),
        (("photos", "photos", "--evaluate"), "--evaluate takes one folder"),
        (("photos", "--evaluate"), "photos: 1 folder in it"),
        (("photos", "--evaluate", "--confusion", "c.txt"), "a picture's name ends in"),
    ],
)
def test_bad_usage(photos, classify, arguments, message):
    done = classify(*arguments)
    assert done.code == 2 and message in done.error


# ------------------------------------------------------------ labelled trees


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two reds, one of them blue; two blues; a green that is no image."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("red/1.png", "red"), ("red/2.png", "blue"), ("blue/1.png", "blue"), ("blue/2.png", "blue")):
        factories.save(tmp_path / "tree" / name, colour)
    (tmp_path / "tree" / "green").mkdir()
    (tmp_path / "tree" / "green" / "1.png").write_text("no image")
    return tmp_path / "tree"


def test_evaluate(tree, classify):
    done = classify("tree", "--evaluate", "--max-errors", "1", "--confusion", "c.png", "--csv", "e.csv")
    assert done.code == 0
    assert fields(done) == [
        ["blue", "2", "100.00", "100.00", "", "0.00"],
        ["green", "0", "0.00", "0.00", "", "0.00"],
        ["red", "2", "50.00", "100.00", "blue", "50.00"],
    ]
    assert "4 images: top-1 75.0%, mean of the classes 75.0% (by chance 33.3%)" in done.err
    assert "drawn: c.png" in done.err and (tree.parent / "c.png").is_file()
    assert [(row["class"], row["label"]) for row in table("e.csv")] == [
        ("blue", "blue"),
        ("blue", "blue"),
        ("red", "red"),
        ("red", "blue"),
        ("green", ""),
    ]
    assert classify("tree", "--evaluate").code == 3


def test_evaluate_as_json_with_more_labels(tree, classify):
    (tree / "green" / "1.png").unlink()
    done = classify("tree", "--evaluate", "--json", "--labels", "red,green,blue,a picture,a,blue blue")
    content = json.loads(done.out)
    assert content["labels"] == ["blue", "green", "red", "a picture", "a", "blue blue"]
    assert (content["images"], content["top1"], content["chance"]) == (4, 75, 16.67)
    refused = classify("tree", "--evaluate", "--labels", "red,blue")
    assert refused.code == 2 and "the labels lack green" in refused.error


def test_evaluate_parquet_of_the_hub(classify, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["bird", "cat", "red", "green"]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 250, 0), (250, 0, 0), (128,) * 3)]
    rows = datasets.Dataset.from_dict({"img": images, "label": [2, 3, 3, 0]}, features=features)
    Path("plain_text").mkdir()
    rows.to_parquet("plain_text/test-00000-of-00001.parquet")
    rows.select([0]).to_parquet("plain_text/train-00000-of-00001.parquet")
    done = classify(".", "--evaluate", "--json", "--template", "{}", "--max-errors", "1", "--csv", "all.csv")
    content = json.loads(done.out)
    assert (done.code, content["images"], content["labels"]) == (0, 3, names)
    assert [row["images"] for row in content["classes"]] == [0, 0, 1, 2]
    assert content["confusion"][2][2] == content["confusion"][3][3] == content["confusion"][3][2] == 1
    assert "bird/plain_text/test-00000-of-00001.parquet/00003: infer: the model gave a zero vector" in done.err
    assert [row["class"] for row in table("all.csv")] == ["red", "green", "green", "bird"]
    assert json.loads(classify(".", "--evaluate", "--split", "train", "--json").out)["images"] == 1


def test_a_table_in_a_terminal_and_nothing_heavy_is_imported(photos, scaled):
    program = (
        "import sys; from clipline.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'timm', 'mlflow', 'dvc', 'onnx', 'matplotlib', 'datasets', 'pandas'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    command = [sys.executable, "-c", program, "classify", "photos", *LABELS, "--model", str(scaled)]
    subprocess.run(command, stdout=child, stderr=subprocess.DEVNULL, check=True, env=environment, timeout=120)
    text = os.read(parent, 65536).decode()
    os.close(child)
    os.close(parent)
    assert "photos/sub/c.png" in text and "90.9%" in text
    assert "50.0%" in text, "two of four images are red"
    assert "HEAVY []" in text
