"""Checkpoints and bundles written at commit 782a097 load, evaluate, export and embed as they did there, bit for bit.

`vit` has settings that are named otherwise since (head.copies, train.chunk, train.augment.off_last), and some that
are gone. `resnet` has batch norm to fold and features of mirrored images. Both are random, and small.

Sums of floats depend on a CPU's instructions, so numbers that were recorded are compared to the last bit where this
CPU is the recording one, and within 1e-5 elsewhere. Graphs that are exported now agree with those of then within 1e-6:
the scaling of pixels is folded before batch norm is, where it was folded behind it.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from clipline.data.prepared import Prepared
from clipline.evaluation import embed_split, metrics
from clipline.export.export import export_model
from clipline.model.embedder import TorchModel
from clipline.runtime.model import OnnxModel
from clipline.train import checkpoint
from clipline.utils import cores
from tests.factories import export_params

FIXTURES = Path(__file__).parent / "782a097"
KINDS = ("vit", "resnet")
PARAMS = export_params()


def cpu() -> str:
    """A name for this machine's kind of CPU: its model, instruction sets and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = sorted({line for line in lines if line.startswith(("flags", "model name"))})
    return hashlib.sha256(f"{names} {cores.available()}".encode()).hexdigest()[:16]


@pytest.fixture(params=KINDS)
def folder(request) -> Path:
    return FIXTURES / request.param


@pytest.fixture
def expected(folder):
    return np.load(folder / "expected.npz")


@pytest.fixture
def texts(folder) -> list[str]:
    return json.loads((folder / "expected.json").read_text())["texts"]


@pytest.fixture
def same(folder):
    """same(actual, recorded) fails unless they are equal: to the bit on the CPU of the record."""
    exact = json.loads((folder / "expected.json").read_text())["cpu"] == cpu()

    def check(actual: np.ndarray, recorded: np.ndarray, tolerance: float = 1e-5) -> None:
        if exact:
            np.testing.assert_array_equal(actual, recorded)
        else:
            np.testing.assert_allclose(actual, recorded, atol=tolerance, rtol=0)

    return check


@pytest.fixture
def torch_model(folder, one_thread, prepared):
    return TorchModel(checkpoint.load(folder / "checkpoint").model, Prepared(prepared).tokenizer, torch.device("cpu"))


def test_a_checkpoint_loads_and_embeds(torch_model, expected, texts, same):
    same(torch_model.embed_pixels(expected["pixels"]), expected["torch_image"])
    same(torch_model.embed_texts(texts), expected["torch_text"])


def test_settings_that_were_renamed_or_dropped_are_translated(folder):
    recipe = checkpoint.load(folder / "checkpoint").recipe
    if folder.name == "vit":
        assert recipe.head.num_heads == 2
        assert recipe.train.micro_batch_size == 2
        assert recipe.train.augment.disable_last_epochs == 1
    old = json.loads((folder / "checkpoint/config.json").read_text())["recipe"]
    assert {"copies"} < old["head"].keys() and {"chunk"} < old["train"].keys(), "the fixture has the old names"


def test_a_bundle_embeds(folder, expected, texts, same):
    model = OnnxModel(folder / "onnx")
    same(model.embed_pixels(expected["pixels"]), expected["onnx_image"])
    same(model.embed_texts(texts), expected["onnx_text"])
    same(
        OnnxModel(folder / "onnx", precision="fp16").embed_pixels(expected["pixels"]), expected["onnx_image_fp16"], 1e-3
    )


def test_an_int8_bundle_embeds(folder, expected):
    """Sums of byte products differ between kinds of CPUs by what int8 itself is off."""
    actual = OnnxModel(folder / "onnx", precision="int8").embed_pixels(expected["pixels"])
    assert (actual * expected["onnx_image_int8"]).sum(axis=1).min() > 0.99


def test_a_checkpoint_exports_to_graphs_that_compute_the_same(folder, raw, prepared, tmp_path, expected):
    """The graph written now and the one written then, side by side: the same weights and the same embeddings."""
    source = folder / "checkpoint"
    export_model(source, checkpoint.load(source), Prepared(prepared), raw / "images", tmp_path / "onnx", PARAMS)
    then, now = (onnxruntime.InferenceSession(path / "image.onnx") for path in (folder / "onnx", tmp_path / "onnx"))
    feed = {"pixels": expected["pixels"]}
    np.testing.assert_array_equal(now.run(None, feed)[0], then.run(None, feed)[0])
    for name in ("image.onnx", "text.onnx"):
        assert weights(tmp_path / "onnx" / name) == weights(folder / "onnx" / name)
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (folder / "onnx", tmp_path / "onnx")]
    assert manifests[0]["model_id"] == manifests[1]["model_id"], "embeddings of both may be mixed"


def weights(path: Path) -> list[bytes]:
    """The large initialisers of a graph, sorted."""
    tensors = (onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer)
    return sorted(array.tobytes() for array in tensors if array.size > 64)


def test_a_checkpoint_evaluates(folder, torch_model, raw, prepared):
    """Recall of the checkpoint is that of the bundle that was exported from it then."""
    model, test = OnnxModel(folder / "onnx"), Prepared(prepared).split("test")
    figures = [
        metrics(embed_split(embedder, test, raw / "images", model.preprocess, 8, "embedding"), test)
        for embedder in (torch_model, model)
    ]
    assert figures[0] == figures[1]
