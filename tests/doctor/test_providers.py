"""Tests of providers, and the providers on which a model's nodes run."""

import onnx
import pytest
from onnx import helper

from clipline.doctor import providers
from clipline.runtime import session
from clipline.runtime.bundle import Bundle


def test_the_small_graph_is_what_onnx_writes():
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    assert onnx.load_from_string(providers.DOUBLE) == model


def test_what_runs_here():
    cpu, cuda = providers.providers(threads=1)
    assert (cpu.name, cpu.available, cpu.runs, cpu.why) == ("cpu", True, True, "")
    assert cuda.name == "cuda"
    if session.no_device():
        assert not cuda.runs
        assert cuda.why
        assert "Fix" not in cuda.why


def test_a_provider_that_gives_wrong_numbers_does_not_run(monkeypatch):
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "square", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    monkeypatch.setattr(providers, "DOUBLE", model.SerializeToString())
    cpu, _ = providers.providers(threads=1)
    assert not cpu.runs
    assert cpu.why == "it starts, but doubles 0 1 2 to [0.0, 1.0, 4.0]"


def test_every_node_is_counted(bundle):
    image, text = providers.placements(Bundle(bundle), "cpu", threads=1)
    assert (image.file, image.precision, image.problem) == ("image.onnx", "fp32", "")
    for placement in (image, text):
        assert list(placement.nodes) == [session.CPU]
        assert placement.share == {session.CPU: 1.0}
        assert placement.cpu_work == [], "only reported for CUDA"
    nodes = len(onnx.load(bundle / "image.onnx").graph.node)
    assert 1 < image.nodes[session.CPU] <= nodes, "onnxruntime fuses some, and runs each once"


def test_damaged_files_are_told_apart(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "onnx")
    opened = Bundle(folder)
    original = (folder / "image.onnx").read_bytes()
    (folder / "image.onnx").write_bytes(original[:-1] + b"x")
    (folder / "text.onnx").unlink()
    image, text = providers.placements(opened, "cpu", threads=1)
    assert "image.onnx: not the file that manifest.json describes" in image.problem
    assert "text.onnx: no such file" in text.problem
    assert image.nodes == text.nodes == {}


@pytest.mark.skipif(session.no_device() is None, reason="this machine has an NVIDIA device")
def test_cuda_that_is_absent(bundle):
    """The report must not show the placement on the CPU instead."""
    for placement in providers.placements(Bundle(bundle), "cuda", threads=1):
        assert "CUDA was asked for" in placement.problem
        assert placement.nodes == {}


def test_why_not_is_said_apart_from_the_fix():
    error = session.NoCudaError("the driver sleeps")
    assert error.reason == "the driver sleeps"
    assert str(error).startswith(f"CUDA was asked for, but the driver sleeps. {session.CUDA_FIX}. Or use the CPU")
    _, cuda = providers.providers(threads=1)
    assert "CUDA was asked for" not in cuda.why
