"""The exported bundle: its files, and that a graph that disagrees with torch is not kept."""

import hashlib
import json
import re
import shutil

import numpy as np
import onnx
import pytest
import torch

from clipline.config.run import VariantGate
from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.export import export, variants
from clipline.export.gates import check_recall
from clipline.export.parity import Parity, check, compare
from clipline.model.embedder import TorchModel
from clipline.runtime.bundle import Bundle
from clipline.runtime.model import OnnxModel
from clipline.train import checkpoint
from stages.export import describe
from tests.factories import export_params

PARAMS = export_params()
BOTH = export_params(
    precisions=["fp16", "int8"],
    fp16=VariantGate(min_cosine=0.999, max_r1_drop=0.1),
    int8=VariantGate(min_cosine=0.9, max_r1_drop=100.0),
)


@pytest.fixture(scope="module")
def run(tiny_checkpoint, raw, prepared):
    """run(out, params, checkpoint) -> the report of an export to `out`."""

    def export_to(out, params=PARAMS, folder=tiny_checkpoint):
        return export.export_model(folder, checkpoint.load(folder), Prepared(prepared), raw / "images", out, params)

    return export_to


def copy_graphs(source):
    """What stands for `export.write_graphs`, which takes long: the graphs in `source`."""
    return lambda model, folder, size, opset: [shutil.copy(path, folder) for path in source.glob("*.onnx")]


@pytest.fixture
def graphs(tiny_graphs, tmp_path, monkeypatch):
    """Exports take the graphs in this folder, which are as they should be."""
    folder = shutil.copytree(tiny_graphs, tmp_path / "graphs")
    monkeypatch.setattr(export, "write_graphs", copy_graphs(folder))
    return folder


@pytest.fixture(scope="module")
def exported(run, tiny_graphs, tmp_path_factory):
    """The bundle with all variants, and its report. Read it only."""
    out = tmp_path_factory.mktemp("exported") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write_graphs", copy_graphs(tiny_graphs))
        return out, run(out, BOTH)


def test_bundle_is_whole_and_computes_what_torch_computes(exported, tiny_checkpoint, prepared):
    folder, report = exported
    names = {"image.onnx", "text.onnx", "tokenizer.json", "preprocess.json", "manifest.json"}
    assert {path.name for path in folder.iterdir()} == names | {"image.fp16.onnx", "image.int8.onnx"}
    manifest = Bundle(folder).manifest
    assert (manifest.dim, manifest.recipe, manifest.opset) == (16, "tiny", 20)
    assert manifest.image["fp32"].min_cosine == report["image"]["fp32"]["min_cosine"] > 0.99999
    assert manifest.metrics == pytest.approx(report["test"]["onnx"])
    assert manifest.files == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("preprocess.json", "tokenizer.json")
    }
    assert report["test"]["delta_r1"] == {"i2t_r1": 0, "t2i_r1": 0}
    spec = json.loads((folder / "preprocess.json").read_text())
    assert spec["size"] == 32 and spec["mean"] == pytest.approx([0.485, 0.456, 0.406])

    data = Prepared(prepared)
    ours, theirs = (
        OnnxModel(folder, provider="cpu"),
        TorchModel(checkpoint.load(tiny_checkpoint).model, data.tokenizer, torch.device("cpu")),
    )
    texts = ["a red bar on the left", "blue"]
    assert np.allclose(ours.embed_texts(texts), theirs.embed_texts(texts), atol=1e-5)
    pixels = np.array(data.split("test").images[:3])
    assert np.allclose(ours.embed_pixels(pixels), theirs.embed_pixels(pixels), atol=1e-5)


def test_no_precision_but_fp32_unless_it_is_asked_for(graphs, run, tmp_path):
    run(tmp_path / "onnx")
    names = {"image.onnx", "text.onnx", "tokenizer.json", "preprocess.json", "manifest.json"}
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == names


def names(folder):
    manifest = Bundle(folder).manifest
    return manifest.model_id, {precision: graph.variant for precision, graph in manifest.image.items()}


def test_names_follow_the_weights_and_not_the_time(exported, run, tmp_path):
    """Embeddings of one variant never mix with another's, so an export that changes nothing must keep its names."""
    run(tmp_path / "again", BOTH)
    assert names(tmp_path / "again") == names(exported[0])
    assert list(names(exported[0])[1]) == ["fp32", "fp16", "int8"]


def test_other_weights_are_another_model(graphs, exported, run, tiny_checkpoint, prepared, tmp_path):
    changed = checkpoint.load(tiny_checkpoint)
    changed.model.image_head[-1].weight.data *= 1 + 1e-6  # within the gates
    checkpoint.save(tmp_path / "other", changed.model, changed.recipe, Prepared(prepared).vocab_size, changed.info)
    run(tmp_path / "onnx", folder=tmp_path / "other")
    assert names(tmp_path / "onnx")[0] != names(exported[0])[0]


def spoil(path, amount):
    """Add noise to the last matrix of a graph: what a faulty exporter would do."""
    model = onnx.load(path)
    tensor = [t for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT][-1]
    values = onnx.numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).normal(size=values.shape).astype(np.float32) * amount * values.std()
    tensor.CopyFrom(onnx.numpy_helper.from_array(values + noise, tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize("graph", ["image.onnx", "text.onnx"])
def test_a_graph_that_disagrees_is_not_shipped_and_the_old_one_stays(graphs, exported, run, tmp_path, graph):
    out = shutil.copytree(exported[0], tmp_path / "onnx")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    spoil(graphs / graph, 0.3)
    with pytest.raises(CliplineError, match=f"{graph}: parity with torch failed"):
        run(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graphs", "onnx"]


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
        check_recall(lower, split, PARAMS)
    one_query = {"torch": torch_figures, "onnx": {"i2t_r1": 40.0, "t2i_r1": 50.0}}  # 10 images: one query is 10 points
    assert check_recall(one_query, split, PARAMS) == {"i2t_r1": -10.0, "t2i_r1": 0.0}


def test_both_precisions_are_measured_and_shipped(exported, prepared):
    folder, report = exported[0], exported[1]["image"]
    manifest = Bundle(folder).manifest
    assert list(manifest.image) == ["fp32", "fp16", "int8"] and list(manifest.text) == ["fp32"]
    pixels = np.array(Prepared(prepared).split("test").images[:5])
    exact = OnnxModel(folder, provider="cpu").embed_pixels(pixels)
    for precision in ("fp16", "int8"):
        figures, graph = report[precision], manifest.image[precision]
        assert figures["shipped"] and figures["images_per_second"] > 0
        assert 0.98 < figures["min_cosine"] == graph.min_cosine < 1 and graph.max_abs == figures["max_abs"] > 0
        assert figures["bytes"] == graph.bytes == (folder / f"image.{precision}.onnx").stat().st_size
        assert figures["delta_r1"].keys() == {"i2t_r1", "t2i_r1"} and 0 <= figures["test"]["t2i_r10"] <= 100
        assert graph.variant.startswith(f"{precision}-")
        actual = OnnxModel(folder, provider="cpu", precision=precision).embed_pixels(pixels)
        assert (actual * exact).sum(axis=1).min() > 0.98 and not np.array_equal(actual, exact)
    assert report["int8"]["layers"] == 5 and report["int8"]["calibration_images"] == 24


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        ({"min_cosine": 1.0, "max_r1_drop": 100.0}, r"min cosine 0\.\d+ \(gate 1\.0\)"),
        ({"min_cosine": 0.0, "max_r1_drop": 0.0}, r"R@1 t2i falls by 30\.0 points \(gate 0\.0\)"),
    ],
)
def test_a_variant_that_misses_its_gate_is_not_shipped(graphs, run, tmp_path, monkeypatch, gate, why):
    if gate["max_r1_drop"] == 0:
        real = variants.recall_change
        monkeypatch.setattr(variants, "recall_change", lambda *args: real(*args) | {"t2i_r1": -30.0})
    params = BOTH.model_copy(update={"int8": VariantGate(**gate)})
    report = run(tmp_path / "onnx", params)["image"]
    assert report["int8"]["shipped"] is False and re.fullmatch(why, report["int8"]["why"])
    assert report["int8"]["bytes"] > 0 and "i2t_r1" in report["int8"]["test"]  # its figures are reported anyway
    assert not (tmp_path / "onnx" / "image.int8.onnx").exists()
    assert "int8" not in Bundle(tmp_path / "onnx").manifest.image
    line = describe("image.int8", report["int8"])
    assert line.startswith(f"image.int8.onnx: not shipped: {report['int8']['why']}. min cosine")


def test_a_variant_that_cannot_be_built_costs_nothing_else(graphs, run, tmp_path, monkeypatch):
    def fail(*_):
        raise TypeError("no such operator")

    monkeypatch.setattr("clipline.export.fp16.to_fp16", fail)
    report = run(tmp_path / "onnx", BOTH)["image"]
    assert report["fp16"] == {"shipped": False, "why": "cannot be built: TypeError: no such operator"}
    assert list(Bundle(tmp_path / "onnx").manifest.image) == ["fp32", "int8"]
    assert describe("image.fp16", report["fp16"]) == (
        "image.fp16.onnx: not shipped: cannot be built: TypeError: no such operator. "
    )


@pytest.mark.parametrize("count", [1, 2, 3, 60, 6000])
def test_calibration_and_probe_are_different_images(count):
    rows = np.arange(count) * 7
    calibration, probe = variants.calibration_rows(rows, 256)
    assert len(calibration) and len(probe) and set(calibration) | set(probe) <= set(rows)
    assert count == 1 or not set(calibration) & set(probe)
    assert len(probe) <= variants.PROBE and (count < 6000 or (len(calibration), len(probe)) == (256, 32))
