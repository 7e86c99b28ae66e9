"""image.int8.onnx: what is quantised, what stays in float, and that no embedding depends on its batch."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from clipline.errors import CliplineError
from clipline.export import int8
from clipline.export.int8 import to_int8
from clipline.export.int8_layers import Layers
from clipline.utils import cores

from .conftest import IMAGES, export_module

QUANTISED = {"QLinearConv", "MatMulIntegerToFloat"}


def session(path, optimised=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def embed(path, pixels):
    return session(path).run(None, {"pixels": pixels})[0]


def really_runs(path, tmp_path):
    """The operators of the graph after onnxruntime has optimised it."""
    session(path, tmp_path / "optimised.onnx")
    return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]


def halves(pixels):
    return iter((pixels[:12], pixels[12:]))


@pytest.mark.parametrize("kind", ["vit", "resnet", "mobilenet", "clip"])
def test_agrees_and_no_embedding_depends_on_its_batch(exported, pixels, tmp_path, kind):
    source, target = exported("image", IMAGES[kind]), tmp_path / "int8.onnx"
    result = to_int8(source, target, halves(pixels), pixels)
    expected, quantised = embed(source, pixels), embed(target, pixels)
    assert (expected * quantised).sum(axis=1).mean() == pytest.approx(result.cosine, abs=1e-5)
    assert result.cosine > 0.98 and quantised.dtype == np.float32
    alone = np.concatenate([embed(target, pixels[i : i + 1]) for i in range(len(pixels))])
    assert np.array_equal(alone, quantised)
    ran = really_runs(target, tmp_path)
    assert sum(name in QUANTISED for name in ran) == result.layers - len(result.in_float) > 0
    assert target.stat().st_size < 0.5 * source.stat().st_size


def test_what_is_a_layer(exported):
    vit = Layers(onnx.load(exported("image", IMAGES["vit"])).graph)
    # The patches, and in the block q/k/v, projection and the two of the MLP; not attention, not the head.
    assert len(vit.names) == 1 + 4
    assert vit.quantised(set()) == vit.names
    graph = onnx.load(exported("image", IMAGES["resnet"])).graph
    resnet = Layers(graph)
    kinds = {node.name: node.op_type for node in graph.node}
    assert len(resnet.names) == sum(kind == "Conv" for kind in kinds.values())
    others = [kinds[name] for name in resnet.quantised(set()) if name not in resnet.names]
    assert sorted(set(others)) == ["Add", "MaxPool", "Relu"]
    first = resnet.names[0]
    (activation,) = set(resnet.quantised(set())) - set(resnet.quantised({first})) - {first}
    assert kinds[activation] == "Relu"


def test_a_layer_left_in_float_stays_in_float(exported, pixels, tmp_path):
    """onnxruntime would quantise it when it loads the graph, with one scale for all channels."""
    source = exported("image", IMAGES["mobilenet"])
    quantiser = int8._Quantiser(source, tmp_path, halves(pixels), pixels)
    second = quantiser.layers.names[3]
    quantiser.build([second], tmp_path / "int8.onnx")
    ran = really_runs(tmp_path / "int8.onnx", tmp_path)
    assert ran.count("QLinearConv") == len(quantiser.layers.names) - 1
    assert sum(name in ("Conv", "FusedConv") for name in ran) == 1


class Outlier(nn.Module):
    """Six convolutions; the first has a channel of huge values, which the second ignores."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, 2 if i < 3 else 1, 1) for i in range(6))
        with torch.no_grad():
            for conv in self.convs:
                conv.bias.zero_()
            self.convs[0].bias[0] = 3000
            self.convs[1].weight[:, 0] = 0

    def forward(self, pixels):
        values = pixels.permute(0, 3, 1, 2).float() / 255
        for conv in self.convs:
            values = conv(values).relu()
        return nn.functional.normalize(values.flatten(1), dim=-1)


def test_the_layers_that_lose_most_stay_in_float(pixels, tmp_path):
    torch.manual_seed(1)
    source = tmp_path / "image.onnx"
    export_module(Outlier(), source, pixels)
    names = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    result = to_int8(source, tmp_path / "int8.onnx", halves(pixels), pixels)
    assert result.in_float == names[:2]
    assert int8._Quantiser(source, tmp_path, halves(pixels), pixels).build([]) < 0.99 < result.cosine


def test_nothing_to_quantise(pixels, tmp_path):
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["embedding"], keepdims=0, axes=[1, 2]),
    ]
    values = [
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 32, 32, 3]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3]),
    ]
    graph = helper.make_graph(nodes, "mean", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "x.onnx")
    with pytest.raises(CliplineError, match="no convolution or matrix product"):
        to_int8(tmp_path / "x.onnx", tmp_path / "int8.onnx", halves(pixels), pixels)


def test_no_sum_of_products_overflows_without_vnni(exported, pixels, tmp_path):
    """CPUs without VNNI add two products of bytes in 16 bits: 2 x 255 x 64 fits, 2 x 255 x 128 does not."""
    for kind in ("vit", "mobilenet"):
        to_int8(exported("image", IMAGES[kind]), tmp_path / "int8.onnx", halves(pixels), pixels)
        graph = onnx.load(tmp_path / "int8.onnx").graph
        weights = [
            onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == TensorProto.INT8
        ]
        assert max(np.abs(weight.astype(int)).max() for weight in weights if weight.size > 1) == 64


# Embeds under whatever CPU the process sees: with a session as anybody opens it, and with clipline's.
EMBED = """
import sys
sys.path[:0] = sys.argv[4:]
import numpy as np, onnxruntime
from pathlib import Path
from clipline.runtime.session import Sessions
from clipline.utils import cores
cores.multiplies_bytes = lambda: False  # qemu shows the /proc/cpuinfo of the machine below it
graph, pixels, out = sys.argv[1:4]
sessions = {
    "plain": onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]),
    "ours": Sessions("cpu", 1).open(Path(graph)),
}
pixels = np.load(pixels)
np.savez(out, **{name: session.run(None, {"pixels": pixels})[0] for name, session in sessions.items()})
"""


@pytest.fixture
def embed_without_vnni(tmp_path):
    """embed_without_vnni(graph, pixels) -> {"plain": ..., "ours": ...}, embedded on an emulated Haswell."""
    emulator = shutil.which("qemu-x86_64")
    if not emulator:
        pytest.skip("needs qemu-x86_64: apt-get install qemu-user")

    def embed(graph, pixels):
        np.save(tmp_path / "pixels.npy", pixels)
        # The interpreter itself, since qemu starts no script's; it then has to be told where packages are.
        command = [emulator, "-cpu", "Haswell", Path(sys.executable).resolve(), "-c", EMBED]
        files = [graph, tmp_path / "pixels.npy", tmp_path / "out.npz"]
        subprocess.run([*command, *files, *filter(None, sys.path)], check=True, timeout=200, capture_output=True)
        return np.load(tmp_path / "out.npz")

    return embed


VNNI = pytest.mark.skipif(not cores.multiplies_bytes(), reason="this CPU has no VNNI: the other tests run without it")


@VNNI
def test_the_same_embeddings_without_vnni(exported, pixels, tmp_path, embed_without_vnni):
    target = tmp_path / "int8.onnx"
    to_int8(exported("image", IMAGES["resnet"]), target, halves(pixels), pixels)
    embedded = embed_without_vnni(target, pixels[:4])
    for name in ("plain", "ours"):
        assert np.abs(embedded[name] - embed(target, pixels[:4])).max() < 1e-5, name


@VNNI
def test_weights_of_8_bits_need_the_session_that_clipline_opens(embed_without_vnni):
    """A bundle of an earlier release. That its plain session differs shows that the emulated CPU has no VNNI."""
    folder = Path(__file__).parents[1] / "compatibility/782a097/resnet"
    pixels = np.load(folder / "expected.npz")["pixels"]
    graph = folder / "onnx/image.int8.onnx"
    embedded = embed_without_vnni(graph, pixels)
    assert np.abs(embedded["ours"] - embed(graph, pixels)).max() < 1e-5
    assert np.abs(embedded["plain"] - embed(graph, pixels)).max() > 1e-3
