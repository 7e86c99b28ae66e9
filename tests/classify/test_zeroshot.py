"""Labels and captions -> probabilities, with a real exported model that knows colours."""

import json

import numpy as np
import pytest

from clipline.classify.zeroshot import (
    ASSUMED_SCALE,
    TEMPLATES,
    caption_probabilities,
    class_vectors,
    logit_scale,
    notes,
    probabilities,
    prompts,
    top_labels,
)
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel


@pytest.fixture
def open_model(make_bundle, tmp_path):
    """open_model(scale) -> the colour model, whose manifest says so."""

    def open_(scale: float | None = None) -> OnnxModel:
        folder = make_bundle(tmp_path / f"onnx-{scale}")
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"logit_scale": scale}))
        return OnnxModel(folder, provider="cpu", threads=1)

    return open_


def pixels(*colours) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in colours])


def test_a_class_is_the_normalised_mean_of_its_prompts(open_model):
    model = open_model()
    vectors = class_vectors(model, ["red", "blue"], ["a {}", "{} green", "a picture of {} {}"])
    for row, label in zip(vectors, ["red", "blue"], strict=True):
        prompts = [f"a {label}", f"{label} green", f"a picture of {label} {label}"]
        mean = model.embed_texts(prompts).mean(axis=0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert vectors.dtype == np.float32
    # The mean of unlike prompts is shorter than 1 before it is normalised again.
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_many_labels_are_read_in_several_calls_and_counted(open_model):
    model, done = open_model(), []
    labels = [f"red {number}" if number % 3 else f"blue {number}" for number in range(300)]
    vectors = class_vectors(model, labels, advance=done.append)
    assert sum(done) == 300 and len(done) > 1
    assert np.allclose(vectors[1], class_vectors(model, ["red"])[0], atol=1e-6)
    assert np.allclose(vectors[299], class_vectors(model, ["red"])[0], atol=1e-6)
    assert np.allclose(vectors[297], class_vectors(model, ["blue"])[0], atol=1e-6)


def test_labels_may_hold_braces_and_spaces(open_model):
    vectors = class_vectors(open_model(), [" {red} ", "{0} blue"], ["a {}"])
    assert vectors @ class_vectors(open_model(1.0), ["red", "blue"], ["a {}"]).T == pytest.approx(
        np.array([[1, -0.5], [-0.5, 1]]), abs=1e-5
    )


def test_no_labels_give_no_vectors(open_model):
    assert class_vectors(open_model(), []).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        (["red", " "], None, "label 1 is empty"),
        (["red"], [], "no templates"),
        (["red"], ["a picture"], r"template 'a picture': has no \{\}"),
    ],
)
def test_what_cannot_be_a_class(open_model, labels, templates, message):
    with pytest.raises(UsageError, match=message):
        class_vectors(open_model(), labels, templates)


def test_every_set_of_templates_is_usable():
    assert {"captions", "photo", "plain"} <= TEMPLATES.keys()
    for templates in TEMPLATES.values():
        assert all(template.count("{}") == 1 for template in templates)
        assert len(set(templates)) == len(templates)
    assert len(TEMPLATES["cifar10"]) == 18
    assert "a photo of the small {}." in TEMPLATES["cifar10"]


def test_probabilities_are_the_softmax_of_scaled_cosines():
    rng = np.random.default_rng(0)
    images, texts = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (rng.normal(size=(4, 8)), rng.normal(size=(5, 8)).astype(np.float32))
    )
    shares = probabilities(images.astype(np.float16), texts, 12.5)
    weights = np.exp(12.5 * images @ texts.T)
    assert shares == pytest.approx(weights / weights.sum(axis=1, keepdims=True), abs=5e-3)
    assert shares.dtype == np.float32
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_a_large_scale_does_not_overflow():
    shares = probabilities(np.eye(3), np.eye(3, dtype=np.float32), 1e6)
    assert np.array_equal(shares, np.eye(3))
    assert probabilities(np.empty((0, 3)), np.eye(3, dtype=np.float32), 100.0).shape == (0, 3)


def test_top_labels():
    ranked = top_labels(["a", "b", "c"], np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], np.float32), 2)
    assert [[label for label, _ in row] for row in ranked] == [["b", "c"], ["a", "c"]], "ties as the labels stand"
    assert ranked[0][0][1] == pytest.approx(0.5)
    assert top_labels(["a"], np.empty((0, 1), np.float32), 5) == []


@pytest.mark.parametrize("scale", [2.0, None])
def test_match_uses_the_model_s_scale(open_model, scale):
    model = open_model(scale)
    images = model.embed_pixels(pixels((250, 0, 0), (0, 0, 250)))
    shares = caption_probabilities(model, images, ["red", "blue"])
    # Cosines of the colour model: 1 with its own colour, -1/2 with another.
    gap = 1.5 * (ASSUMED_SCALE if scale is None else scale)
    assert shares == pytest.approx(1 / (1 + np.exp(np.array([[-gap, gap], [gap, -gap]]))), abs=1e-4)
    with pytest.raises(UsageError, match="caption 1 is empty"):
        caption_probabilities(model, images, ["red", ""])


def test_a_bundle_that_does_not_say_its_scale_is_noted(open_model):
    old, new = open_model(), open_model(37.5)
    assert (logit_scale(old), logit_scale(new)) == (100.0, 37.5)
    assert notes(new, ["red"]) == []
    (note,) = notes(old, ["red"])
    assert "100 is assumed" in note and str(old.bundle.folder) in note
    assert "longer than the model reads" in notes(new, ["red " * 20])[0]


def test_what_the_templates_make_too_long_is_noted_but_not_at_any_length(open_model):
    model, labels = open_model(37.5), ["red", "blue", "green"]
    assert prompts([" red ", "{0}"], ["a {}", "{} {}"]) == ["a red", "red red", "a {0}", "{0} {0}"]
    assert notes(model, prompts(labels, ["a picture of {}"])) == []
    long = "a picture a picture a picture a picture {}"
    for label, note in zip(labels, notes(model, prompts(labels, [long])), strict=True):
        assert f"picture {label}` is longer" in note
    many = notes(model, prompts(labels, [long] * 7))
    assert len(many) == 6 and many[-1] == "and 16 more are longer than the model reads"
