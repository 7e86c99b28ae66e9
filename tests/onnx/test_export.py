"""The whole bundle: what is in it, and that a graph that disagrees with torch is not shipped."""

import json

import numpy as np
import onnx
import pytest
import torch

from clipline.bundle import Bundle
from clipline.config.run import ExportParams
from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.model.clip import build_model
from clipline.model.embedder import TorchModel
from clipline.onnx import export
from clipline.onnx.parity import Parity, check, compare
from clipline.runtime import OnnxModel
from clipline.train import checkpoint

PARAMS = ExportParams(batch_size=8, opset=20, min_cosine=0.9999, max_abs=1e-4, max_r1_drop=0.1)


@pytest.fixture
def trained(make_recipe, prepared, tmp_path):
    recipe, data = make_recipe(), Prepared(prepared)
    torch.manual_seed(0)
    model = build_model(recipe, data.vocab_size)
    info = {"recipe": "tiny", "dataset": "raw", "dataset_fingerprint": data.fingerprint}
    checkpoint.save(tmp_path / "checkpoint", model, recipe, data.vocab_size, info)
    return tmp_path / "checkpoint"


def run(trained, raw, prepared, out, params=PARAMS):
    return export.export_model(trained, checkpoint.load(trained), Prepared(prepared), raw / "images", out, params)


def test_bundle_is_whole_and_computes_what_torch_computes(trained, raw, prepared, tmp_path):
    report = run(trained, raw, prepared, tmp_path / "onnx")
    names = {"image.onnx", "text.onnx", "tokenizer.json", "preprocess.json", "manifest.json"}
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == names
    manifest = Bundle(tmp_path / "onnx").manifest
    assert (manifest.dim, manifest.recipe, manifest.opset) == (16, "tiny", 20)
    assert manifest.image["fp32"].min_cosine == report["image"]["fp32"]["min_cosine"] > 0.99999
    assert manifest.metrics == pytest.approx(report["test"]["onnx"])
    assert report["test"]["delta_r1"] == {"i2t_r1": 0, "t2i_r1": 0}
    spec = json.loads((tmp_path / "onnx" / "preprocess.json").read_text())
    assert spec["size"] == 32 and spec["mean"] == pytest.approx([0.485, 0.456, 0.406])

    data = Prepared(prepared)
    ours, theirs = (
        OnnxModel(tmp_path / "onnx"),
        TorchModel(checkpoint.load(trained).model, data.tokenizer, torch.device("cpu")),
    )
    texts = ["a red bar on the left", "blue"]
    assert np.allclose(ours.embed_texts(texts), theirs.embed_texts(texts), atol=1e-5)
    pixels = np.array(data.split("test").images[:3])
    assert np.allclose(ours.embed_pixels(pixels), theirs.embed_pixels(pixels), atol=1e-5)


def test_model_id_follows_the_weights_and_not_the_time(trained, raw, prepared, tmp_path, make_recipe):
    ids = []
    for name in ("one", "two"):
        run(trained, raw, prepared, tmp_path / name)
        ids.append(Bundle(tmp_path / name).manifest.model_id)
    found = checkpoint.load(trained)
    torch.nn.init.normal_(found.model.image_head[-1].weight)
    checkpoint.save(trained, found.model, found.recipe, Prepared(prepared).vocab_size, found.info)
    run(trained, raw, prepared, tmp_path / "three")
    ids.append(Bundle(tmp_path / "three").manifest.model_id)
    assert ids[0] == ids[1] != ids[2]


def spoil(path, amount):
    """Add noise to the last matrix of a graph: what a faulty exporter would do."""
    model = onnx.load(path)
    tensor = [t for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT][-1]
    values = onnx.numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).normal(size=values.shape).astype(np.float32) * amount * values.std()
    tensor.CopyFrom(onnx.numpy_helper.from_array(values + noise, tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize("graph", ["image.onnx", "text.onnx"])
def test_a_graph_that_disagrees_is_not_shipped_and_the_old_one_stays(
    trained, raw, prepared, tmp_path, monkeypatch, graph
):
    out = tmp_path / "onnx"
    run(trained, raw, prepared, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    real = export.export_graph

    def faulty(module, inputs, axes, path, opset):
        real(module, inputs, axes, path, opset)
        if path.name == graph:
            spoil(path, 0.3)

    monkeypatch.setattr(export, "export_graph", faulty)
    with pytest.raises(CliplineError, match=f"{graph}: parity with torch failed"):
        run(trained, raw, prepared, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "onnx"]


def test_compare_and_gate():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(5, 8)).astype(np.float32)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    assert compare(one, one).min_cosine == pytest.approx(1.0, abs=1e-12) and compare(one, one).max_abs == 0
    other = one.copy()
    other[3, 2] += 0.5
    assert compare(one, other).max_abs == pytest.approx(0.5)
    assert compare(one, other).min_cosine < 0.95
    assert compare(one, one * np.nan) == Parity(-1.0, float("inf"))
    check("ok", Parity(0.99999, 1e-5), PARAMS)
    for parity in (Parity(0.9998, 1e-5), Parity(0.99999, 2e-4), Parity(float("nan"), 0.0)):
        with pytest.raises(CliplineError, match="parity"):
            check("bad", parity, PARAMS)


def test_lower_recall_is_refused(prepared):
    split = Prepared(prepared).split("test")
    torch_figures = {"i2t_r1": 50.0, "t2i_r1": 50.0}
    lower = {"torch": torch_figures, "onnx": {"i2t_r1": 50.0, "t2i_r1": 40.0}}
    with pytest.raises(CliplineError, match=r"R@1 t2i falls by 10\.0 points"):
        export._check_recall(lower, split, PARAMS)
    one_query = {"torch": torch_figures, "onnx": {"i2t_r1": 40.0, "t2i_r1": 50.0}}  # 10 images: one query is 10 points
    assert export._check_recall(one_query, split, PARAMS) == {"i2t_r1": -10.0, "t2i_r1": 0.0}
