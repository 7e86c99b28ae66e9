"""Words find the images they describe, as files that open, wherever everything was moved to."""

import json
import os
import shutil
from pathlib import Path

import pytest

from clipline.errors import UsageError
from clipline.search.query import search


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
    found = search(embedded, ["blue", "red"], 1)
    assert [(answer.query, answer.results[0].path) for answer in found.answers] == [
        ("blue", "blue.png"),
        ("red", "deep/red.png"),
    ]
    assert found.notes == []


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
    found = search(tmp_path / "new" / "index", ["red"], 1)
    assert found.answers[0].results[0].file == tmp_path / "new" / "photos" / "deep" / "red.png"
    assert found.notes == []


def test_images_moved_alone(embedded, tmp_path):
    (tmp_path / "photos").rename(tmp_path / "moved")
    found = search(embedded, ["red"], 1)
    assert found.notes == [f"the images are not in {tmp_path / 'photos'} any more: name their folder with --root"]
    found = search(embedded, ["red"], 1, root=tmp_path / "moved")
    assert found.answers[0].results[0].file.is_file()
    assert found.notes == []
    with pytest.raises(UsageError, match="no such folder"):
        search(embedded, ["red"], 1, root=tmp_path / "wrong")


def test_model_moved(embedded, tmp_path):
    (tmp_path / "onnx").rename(tmp_path / "model")
    with pytest.raises(UsageError, match=r"onnx: no such model folder .*manifest\.json.*--model"):
        search(embedded, ["red"], 1)
    assert paths(embedded, "red", 1, model=tmp_path / "model") == ["deep/red.png"]


def test_another_model_is_refused(embedded, make_bundle, tmp_path):
    other = make_bundle(tmp_path / "other", model_id="shapes")
    with pytest.raises(UsageError, match=r"made by model colours, but .*other is shapes.*Mend: .*--model") as caught:
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


@pytest.mark.parametrize("queries", [[""], ["  "], ["red", "\n"]])
def test_empty_queries(embedded, queries):
    with pytest.raises(UsageError, match="the query is empty"):
        search(embedded, queries, 1)


def test_a_query_longer_than_the_model_reads_is_noted(embedded):
    long = "red " * 20
    found = search(embedded, [long, "blue"], 1)
    assert len(found.notes) == 1
    assert "longer than the model reads" in found.notes[0]
    assert found.answers[0].results[0].path == "deep/red.png"


def change_manifest(folder: Path, **values) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_images_behind_a_url_are_named_by_it(embedded, tmp_path):
    change_manifest(embedded, root="s3://bucket/photos/")
    found = search(embedded, ["red"], 1)
    assert found.answers[0].results[0].file == "s3://bucket/photos/deep/red.png"
    assert found.notes == []
    # A copy on this machine is named with --root.
    assert search(embedded, ["red"], 1, root=tmp_path / "photos").answers[0].results[0].file.is_file()


def test_embeddings_that_are_being_written_are_searched_with_a_note(embedded):
    change_manifest(embedded, complete=False, counts={"images": 0, "rows": 0, "errors": 0, "parts": 0})
    found = search(embedded, ["red"], 1)
    assert found.answers[0].results[0].path == "deep/red.png"
    assert "not all images are in it" in found.notes[0]
