"""Texts find the images that they describe, as files that open, wherever everything was moved to."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from clipline.embed.run import Options, embed
from clipline.embed.sources import open_source
from clipline.embeddings.paths import to_text
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel
from clipline.search import approximate
from clipline.search.index import Index
from clipline.search.searcher import Answer, Result, image_file, image_root
from clipline.search.show import draw
from tests.helpers import search


def paths(folder: Path, query: str, n: int = 2, **options) -> list[str]:
    return [result.path for result in search(folder, [query], n, **options).answers[0].results]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a red picture", ["deep/red.png", "deep/rose.png"]),
        ("Green", ["green.png", "lime.png"]),
        ("blue", ["blue.png", "sky.png"]),
    ],
)
def test_words_find_their_colour(embedded, query, expected):
    assert paths(embedded, query) == expected


def test_several_queries_keep_their_order(embedded):
    answers = search(embedded, ["blue", "red"], 1)
    assert [(answer.query, answer.results[0].path) for answer in answers.answers] == [
        ("blue", "blue.png"),
        ("red", "deep/red.png"),
    ]
    assert answers.notes == []


def test_scores_fall_and_never_leave_the_cosine(embedded):
    scores = [result.score for result in search(embedded, ["red"], 99).answers[0].results]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1, abs=1e-3)
    assert -1 <= scores[-1] < -0.5


@pytest.mark.parametrize("start", [".", "index", "photos/deep", "elsewhere"])
def test_files_open_from_the_current_folder(embedded, tmp_path, monkeypatch, start):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / start)
    results = search(Path(os.path.relpath(embedded)), ["red"], 6).answers[0].results
    assert all(result.file.is_file() for result in results)
    assert results[0].file.is_absolute() == (start != ".")


def test_everything_moved_together(embedded, tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    for name in ("index", "photos", "onnx"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    answers = search(tmp_path / "new" / "index", ["red"], 1)
    assert answers.answers[0].results[0].file == tmp_path / "new" / "photos" / "deep" / "red.png"
    assert answers.notes == []


def test_images_moved_alone(embedded, tmp_path):
    (tmp_path / "photos").rename(tmp_path / "moved")
    answers = search(embedded, ["red"], 1)
    assert answers.notes == [f"the images are not in {tmp_path / 'photos'} any more: name their folder with --root"]
    answers = search(embedded, ["red"], 1, root=tmp_path / "moved")
    assert answers.answers[0].results[0].file.is_file()
    assert answers.notes == []
    with pytest.raises(UsageError, match="no such folder"):
        search(embedded, ["red"], 1, root=tmp_path / "wrong")


def test_model_moved(embedded, tmp_path):
    (tmp_path / "onnx").rename(tmp_path / "model")
    with pytest.raises(UsageError, match=r"onnx: no such model folder .*manifest\.json.*--model"):
        search(embedded, ["red"], 1)
    assert paths(embedded, "red", 1, model=tmp_path / "model") == ["deep/red.png"]


def test_another_model_is_refused(embedded, make_bundle, tmp_path):
    other = make_bundle(tmp_path / "other", model_id="shapes")
    with pytest.raises(UsageError, match=r"made by model colours, but .*other is shapes.*Fix: .*--model") as caught:
        search(embedded, ["red"], 1, model=other)
    assert caught.value.exit_code == 2
    # A retrained model in the same place is the likely case.
    shutil.rmtree(tmp_path / "onnx")
    make_bundle(tmp_path / "onnx", model_id="retrained")
    with pytest.raises(UsageError, match=r"but .* is retrained"):
        search(embedded, ["red"], 1)


def test_another_precision_of_the_same_model_may_search(embedded):
    path = embedded / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"variant": "int8-0123"}))
    assert paths(embedded, "red", 1) == ["deep/red.png"]


@pytest.mark.parametrize(("rows", "taken"), [(6, True), (7, False)])
def test_the_approximate_index_takes_over_when_there_are_many(embedded, monkeypatch, rows, taken):
    """By default, from so many images on; there are six."""
    monkeypatch.setattr(approximate, "MIN_ROWS", rows)
    answers = search(embedded, ["red"], 1)
    assert answers.answers[0].results[0].path == "deep/red.png"
    assert any("approximate index of 6 images" in note for note in answers.notes) == taken
    assert (embedded.parent / ".index.index").exists() == taken


@pytest.mark.parametrize("queries", [[""], ["  "], ["red", "\n"]])
def test_empty_queries(embedded, queries):
    with pytest.raises(UsageError, match=r"(the query|query 1) is empty"):
        search(embedded, queries, 1)


def test_a_query_longer_than_the_model_reads_is_noted(embedded):
    long = "red " * 20
    answers = search(embedded, [long, "blue"], 1)
    assert len(answers.notes) == 1
    assert "longer than the model reads" in answers.notes[0]
    assert answers.answers[0].results[0].path == "deep/red.png"


def change_manifest(folder: Path, **values) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_images_behind_a_url_are_named_by_it(embedded, tmp_path):
    change_manifest(embedded, root="s3://bucket/photos/")
    answers = search(embedded, ["red"], 1)
    assert answers.answers[0].results[0].file == "s3://bucket/photos/deep/red.png"
    assert answers.notes == []
    # A copy on this machine is named with --root.
    assert search(embedded, ["red"], 1, root=tmp_path / "photos").answers[0].results[0].file.is_file()


def test_embeddings_that_are_being_written_are_searched_with_a_note(embedded):
    change_manifest(embedded, complete=False, counts={"images": 0, "rows": 0, "errors": 0, "parts": 0})
    answers = search(embedded, ["red"], 1)
    assert answers.answers[0].results[0].path == "deep/red.png"
    assert "not all images are in it" in answers.notes[0]


def test_escapes_in_a_url_are_the_objects_own(embedded):
    """`to_text` doubles what could be taken for its own escapes; in the URL they are as the store has them."""
    change_manifest(embedded, root=to_text("https://host/caf%C3%A9"))
    root = image_root(Index(embedded), None)
    assert image_file(root, to_text("tea%C3%A9.jpg")) == "https://host/caf%C3%A9/tea%C3%A9.jpg"


def test_members_of_tar_shards_cannot_be_drawn(embedded, shades, tmp_path):
    with tarfile.open(shades / "shard.tar", "w") as tar:
        for path in sorted(shades.rglob("*.png")):
            tar.add(path, path.name)
    model = OnnxModel(tmp_path / "onnx", provider="cpu", threads=1)
    embed(open_source(str(shades / "shard.tar")), model, tmp_path / "shards", Options())
    answers = search(tmp_path / "shards", ["red"], 2).answers
    assert [result.path for result in answers[0].results] == ["shard.tar/red.png", "shard.tar/rose.png"]
    for name in ("out.png", "out.html"):
        with pytest.raises(CliplineError, match=r"shard\.tar/red\.png and 1 more: inside of a tar shard.*unpack"):
            draw(answers, tmp_path / name)
    with pytest.raises(CliplineError, match=r"gone\.png: no such file, .*Fix: .*--root"):
        draw([Answer("red", [Result("gone.png", shades / "gone.png", 0.5)])], tmp_path / "out.png")
