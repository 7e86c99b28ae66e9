"""Clip in Python does what the commands do, on the same model, and imports nothing before it is used."""

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipline
from clipline import Clip
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel
from clipline.search.searcher import Result
from tests.helpers import search

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


@pytest.fixture(scope="module")
def workspace(make_bundle, tmp_path_factory) -> Path:
    """`onnx`, `photos` with one image of each colour, and their embeddings in `index`."""
    folder = tmp_path_factory.mktemp("workspace")
    model = OnnxModel(make_bundle(folder / "onnx"), provider="cpu", threads=1)
    (folder / "photos").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (30, 20), colour).save(folder / "photos" / f"{name}.png")
    embed(Folder(folder / "photos"), model, folder / "index", Options())
    return folder


@pytest.fixture(scope="module")
def clip(workspace) -> Clip:
    return Clip(workspace / "onnx", threads=1)


def test_embeddings(clip, workspace):
    files = [workspace / "photos" / f"{name}.png" for name in COLOURS]
    images, texts = clip.embed_images(files), clip.embed_texts(list(COLOURS))
    assert clip.dim == 3 and clip.model_id == "colours"
    for vectors in (images, texts):
        assert vectors.shape == (3, 3) and vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (images @ texts.T).argmax(axis=1).tolist() == [0, 1, 2]
    assert np.allclose(clip.embed_images([Image.open(files[0]), str(files[0])]), images[[0, 0]])
    with pytest.raises(CliplineError, match=r"none\.png: no such file"):
        clip.embed_images([*files, workspace / "none.png"])
    with pytest.raises(UsageError, match="text 1 is empty"):
        clip.embed_texts(["red", " "])


def test_what_a_picture_may_be(clip, workspace):
    """Bytes, files, arrays and Pillow's images, one or several, are what their file is."""
    path = workspace / "photos" / "red.png"
    data, pixels = path.read_bytes(), np.asarray(Image.open(path))
    expected = clip.embed_images(path)
    assert expected.shape == (1, 3)
    used = io.BytesIO(data)
    used.read()
    for image in (str(path), data, bytearray(data), memoryview(data), used, Image.open(path), pixels):
        assert np.array_equal(clip.embed_images(image), expected)
        assert np.array_equal(clip.embed_images([image]), expected)
        assert clip.classify(image, ["green", "red"])[0][0][0] == "red"
        assert clip.match(image, ["green", "red"]).argmax() == 1
        if not isinstance(image, str):  # a text
            assert clip.search(workspace / "index", image)[0][0].path == "red.png"
    with path.open("rb") as file:
        assert np.array_equal(clip.embed_images(file), expected)
    for images in (np.stack([pixels] * 2), np.array([str(path)] * 2), (path for _ in range(2)), (path, data)):
        assert np.array_equal(clip.embed_images(images), expected[[0, 0]])
    assert clip.search(workspace / "index", [data, "blue"])[1][0].path == "blue.png"


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "an image is .* not NoneType"),
        ({"bytes": b""}, "an image is .* not dict"),
        (["{path}", None], "image 1: an image is .* not NoneType"),
        ([7], "image 0: .* not int"),
        (np.zeros((9, 9), np.uint8), r"image 0: .* not an array uint8 \[9\]"),
        (np.zeros((9, 9, 4), np.uint8), r"image 0: .* not an array uint8 \[9, 9, 4\]"),
        (np.zeros((9, 9, 3), np.float32), r"image 0: .* not an array float32 \[9, 9, 3\]"),
        ([io.StringIO("text")], "image 0: .* not str"),
    ],
)
def test_what_no_picture_is(clip, workspace, images, words):
    if isinstance(images, list):
        images = [str(workspace / "photos" / "red.png") if image == "{path}" else image for image in images]
    with pytest.raises(TypeError, match=words) as caught:
        clip.embed_images(images)
    assert isinstance(caught.value, UsageError)


def test_what_a_text_may_be(clip, workspace):
    expected = clip.embed_texts(["red", "green"])
    names = ["red", "green"]
    for texts in (np.array(names), np.array(names, object), tuple(names), iter(names)):
        assert np.array_equal(clip.embed_texts(texts), expected)
    assert np.array_equal(clip.embed_texts("red"), expected[:1])
    results = clip.search(workspace / "index", np.array(["red", "green"]), n=1)
    assert [best.path for (best,) in results] == ["red.png", "green.png"]
    assert clip.classify(workspace / "photos" / "red.png", np.array(["red", "green"]))[0][0][0] == "red"
    for texts, words in [
        ([None], "the text is of type NoneType"),
        (["red", 7], "text 1 is of type int"),
        (["red", b"green"], "text 1 is of type bytes"),
        (None, "texts are str or a list of them, and not NoneType"),
        (b"red", "not bytes"),
    ]:
        with pytest.raises(TypeError, match=words) as caught:
            clip.embed_texts(texts)
        assert isinstance(caught.value, UsageError)
    picture = workspace / "photos" / "red.png"
    lone = "caf\udce9"
    for call, words in [
        (lambda: clip.embed_texts(["red", lone]), r"text 1 is not valid text: 'caf"),
        (lambda: clip.search(workspace / "index", lone), "the text is not valid text"),
        (lambda: clip.search(workspace / "index", "red", without=[lone]), "text of `without` is not valid text"),
        (lambda: clip.search(workspace / "index", [None]), r"an embedding here is \[3\]"),
        (
            lambda: clip.search(workspace / "index", [object()]),
            "a query is a text, an image or .* not object",
        ),
        (lambda: clip.classify(picture, ["red", lone]), "label 1 is not valid text"),
        (lambda: clip.classify(picture, ["red", "green"], ["a {}", lone]), "template 1 is not valid text"),
        (lambda: clip.classify(picture, ["red", None]), "label 1 is of type NoneType"),
        (lambda: clip.match(picture, ["red", lone]), "caption 1 is not valid text"),
    ]:
        with pytest.raises(UsageError, match=words):
            call()


def test_a_folder_is_embedded_and_then_passed_over(clip, workspace, tmp_path):
    done = clip.embed_folder(workspace / "photos", tmp_path / "index")
    assert (done.embedded, done.errors) == (3, 0)
    assert clip.search(tmp_path / "index", workspace / "photos" / "red.png", n=1)[0][0].path == "red.png"
    (workspace / "photos" / "red.png").touch()
    again = clip.embed_folder(str(workspace / "photos"), str(tmp_path / "index"))
    assert (again.embedded, again.unchanged) == (0, 3)


def test_threads_are_kept(workspace, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("clipline.utils.cores.available", lambda: pytest.fail("asked for all cores"))
    monkeypatch.setattr(
        "clipline.search.encode.ThreadPoolExecutor",
        lambda threads: asked.append(threads) or ThreadPoolExecutor(threads),
    )
    clip = Clip(workspace / "onnx", threads=1)
    assert clip.embed_images([workspace / "photos" / "red.png"]).shape == (1, 3)
    done = clip.embed_folder(workspace / "photos", tmp_path / "index")
    assert asked == [1] and done.running_on == "CPU, 1 thread"
    assert (done.clock.threads["read"], done.clock.threads["decode"]) == (1, 1)


def test_precision_auto_stays_with_what_a_folder_holds(make_bundle, workspace, tmp_path, monkeypatch):
    """Whichever is faster when it is timed again."""
    folder = make_bundle(tmp_path / "onnx")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["image"]["int8"] = manifest["image"]["fp32"] | {"precision": "int8", "variant": "int8-other"}
    path.write_text(json.dumps(manifest))
    clip, faster = Clip(folder, precision="auto", threads=1), ["fp32"]
    monkeypatch.setattr("clipline.runtime.model.fastest", lambda calls, batch: (faster[0], "timed"))
    assert clip.embed_folder(workspace / "photos", tmp_path / "index").embedded == 3
    faster[0] = "int8"
    assert clip.embed_folder(workspace / "photos", tmp_path / "index").unchanged == 3
    assert clip.embed_folder(workspace / "photos", tmp_path / "index", overwrite=True).embedded == 3
    assert json.loads((tmp_path / "index" / "manifest.json").read_text())["variant"] == "int8-other"


def test_search_is_that_of_the_command(clip, workspace):
    results = clip.search(workspace / "index", "a red picture", n=2)
    assert results == [search(workspace / "index", ["a red picture"], 2).answers[0].results]
    assert isinstance(results[0][0], Result) and results[0][0].path == "red.png" and results[0][0].file.is_file()


def test_queries_of_every_kind(clip, workspace):
    red, blue = workspace / "photos" / "red.png", clip.embed_texts(["blue"])
    queries = ["green", red, Image.open(red), 5 * blue[0]]
    first = [results[0].path for results in clip.search(str(workspace / "index"), queries, n=1)]
    assert first == ["green.png", "red.png", "red.png", "blue.png"]
    assert clip.search(workspace / "index", blue)[0][0].path == "blue.png"
    assert clip.search(workspace / "index", []) == []
    assert [result.path for result in clip.search(workspace / "index", "red", min_score=0.9)[0]] == ["red.png"]
    last = clip.search(workspace / "index", "red", without=["blue"])[0][-1]
    assert last.path == "blue.png"
    for bad in (np.ones(4), np.zeros(3), np.full(3, np.nan)):
        with pytest.raises(UsageError, match=r"an embedding here is \[3\]"):
            clip.search(workspace / "index", bad)


def test_a_folder_is_followed(clip, workspace, tmp_path):
    model, photos = OnnxModel(workspace / "onnx", provider="cpu", threads=1), tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (30, 20), COLOURS["blue"]).save(photos / "blue.png")
    embed(Folder(photos), model, tmp_path / "index", Options())
    assert clip.search(tmp_path / "index", "red", n=1)[0][0].path == "blue.png"
    Image.new("RGB", (30, 20), COLOURS["red"]).save(photos / "red.png")
    embed(Folder(photos), model, tmp_path / "index", Options())
    assert clip.search(tmp_path / "index", "red", n=1)[0][0].path == "red.png"


def test_another_model_is_refused(make_bundle, workspace, tmp_path):
    other = Clip(make_bundle(tmp_path / "other", model_id="shapes"))
    with pytest.raises(UsageError, match=r"made by model colours, but .*other is shapes"):
        other.search(workspace / "index", "red")
    with pytest.raises(UsageError, match="no such file"):
        Clip(tmp_path / "none")


def test_classify_and_match(clip, workspace):
    files = [workspace / "photos" / f"{name}.png" for name in COLOURS]
    results = clip.classify(files, list(COLOURS), top=2)
    assert [row[0][0] for row in results] == list(COLOURS)
    assert all(len(row) == 2 and row[0][1] > 0.99 for row in results)
    assert clip.classify(files[0], ["blue", "red"], ["{}"])[0][0][0] == "red"
    chances = clip.match(files[2], ["a red picture", "a blue picture"])
    assert chances.shape == (2,) and chances.argmax() == 1 and chances.sum() == pytest.approx(1)


def test_importing_the_package_is_light():
    program = "import sys, clipline; print(sorted({'numpy', 'PIL', 'pydantic', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert clipline.Clip is Clip
    with pytest.raises(AttributeError, match="has no attribute 'Clap'"):
        clipline.Clap
