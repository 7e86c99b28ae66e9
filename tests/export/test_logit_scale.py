"""The manifest's logit scale gives the exported model the softmax of the trained model."""

import numpy as np
import pytest
import torch

from clipline.classify import zeroshot
from clipline.data.prepared import Prepared
from clipline.export.export import export_model
from clipline.export.manifest import logit_scale
from clipline.model.clip import build_model
from clipline.runtime.bundle import Manifest
from clipline.runtime.model import OnnxModel
from clipline.train import checkpoint
from clipline.train.objective import Objective
from tests.factories import export_params

TEXTS = ["a red bar on the left", "blue", "the bottom shows yellow", "a green bar"]
PARAMS = export_params(max_r1_drop=100.0)


def trained_softmax(model, pixels, ids, mask) -> np.ndarray:
    """Softmax of each image over the texts, from the logits of the losses; the mean of the logits of several heads."""
    objective, seen = Objective(model), []

    def see(own, everyone, scale, bias):
        seen.append(scale * own.image_BD @ everyone.text_TD.T + (0 if bias is None else bias))
        return seen[-1].sum()

    objective.loss = see
    with torch.inference_mode():
        objective.pairs(model.encode_image(pixels), model.encode_text(ids, mask))
    return torch.stack(seen).mean(dim=0).softmax(dim=1).numpy()


@pytest.fixture
def saved(make_recipe, prepared, tmp_path):
    """saved(changes) -> a checkpoint whose temperature differs from its initial value."""

    def save(changes: dict) -> checkpoint.Checkpoint:
        recipe, data = make_recipe(changes), Prepared(prepared)
        torch.manual_seed(0)
        model = build_model(recipe, data.vocab_size)
        with torch.no_grad():
            model.temperature.log_scale.add_(0.37)
        info = {"recipe": "tiny", "dataset": "raw", "dataset_fingerprint": data.fingerprint}
        checkpoint.save(tmp_path / "checkpoint", model, recipe, data.vocab_size, info)
        return checkpoint.load(tmp_path / "checkpoint")

    return save


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"kind": "siglip"}},
        {"head": {"kind": "residual", "dim": 16, "num_heads": 4}},
        {"head": {"kind": "residual", "dim": 16, "num_heads": 4}, "train.normalize": False},
    ],
    ids=["plain", "bias", "heads", "heads are normalised all the same"],
)
def test_it_gives_the_trained_softmax(saved, prepared, changes, one_thread):
    trained, data = saved(changes), Prepared(prepared)
    pixels = torch.from_numpy(np.array(data.split("test").images[:4]))
    encoded = data.tokenizer.encode_batch(TEXTS)
    ids, mask = (torch.tensor([getattr(encoding, name) for encoding in encoded]) for name in ("ids", "attention_mask"))
    with torch.inference_mode():
        images, texts = trained.model.encode_image(pixels), trained.model.encode_text(ids, mask)
    # As the graphs export them.
    images, texts = (torch.nn.functional.normalize(vectors, dim=-1).numpy() for vectors in (images, texts))
    ours = zeroshot.probabilities(images, texts, logit_scale(trained))
    assert ours == pytest.approx(trained_softmax(trained.model, pixels, ids, mask), abs=1e-5)
    assert logit_scale(trained) == pytest.approx(np.exp(0.37) / 0.07, rel=1e-5)


def test_embeddings_of_any_length_have_no_scale(saved):
    assert logit_scale(saved({"train.normalize": False})) is None


def test_the_exported_model_gives_the_trained_softmax(saved, raw, prepared, tmp_path, one_thread):
    head = {"kind": "residual", "dim": 16, "num_heads": 2}
    trained, data = saved({"head": head, "loss": {"kind": "siglip"}}), Prepared(prepared)
    export_model(tmp_path / "checkpoint", trained, data, raw / "images", tmp_path / "onnx", PARAMS)
    model = OnnxModel(tmp_path / "onnx", provider="cpu", threads=1)
    pixels = np.array(data.split("test").images[:4])
    encoded = data.tokenizer.encode_batch(TEXTS)
    ids, mask = (torch.tensor([getattr(encoding, name) for encoding in encoded]) for name in ("ids", "attention_mask"))
    expected = trained_softmax(trained.model.eval(), torch.from_numpy(pixels), ids, mask)
    assert zeroshot.caption_probabilities(model, model.embed_pixels(pixels), TEXTS) == pytest.approx(expected, abs=1e-4)
    assert zeroshot.notes(model, TEXTS) == []


def test_a_manifest_without_it_can_be_read(bundle):
    text = (bundle / "manifest.json").read_text()
    values = Manifest.model_validate_json(text).model_dump()
    del values["logit_scale"]
    assert Manifest.model_validate(values).logit_scale is None
