"""The exported model through onnxruntime: right numbers, clear errors, no silent change of provider."""

import hashlib
import json
import re
import subprocess
import sys
import types

import numpy as np
import onnx
import pytest

from clipline.errors import CliplineError, UsageError
from clipline.runtime import session
from clipline.runtime.model import OnnxModel
from tests.factories import unit


def flat(*colours) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in colours])


@pytest.fixture
def model(bundle):
    return OnnxModel(bundle, provider="cpu", threads=1)


def test_what_the_manifest_says(model, bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (model.model_id, model.dim, model.preprocess.size) == ("colours", 3, 16)
    assert model.variant == manifest["image"]["fp32"]["variant"]


def test_images(model):
    actual = model.embed_pixels(flat((200, 10, 10), (5, 99, 220)))
    assert actual.dtype == np.float32
    assert np.allclose(actual, [unit((200, 10, 10)), unit((5, 99, 220))], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_batch_gives_the_same(model, count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    alone = np.concatenate([model.embed_pixels(pixels[i : i + 1]) for i in range(count)])
    assert np.allclose(model.embed_pixels(pixels), alone, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_texts(model, batch_size):
    actual = model.embed_texts(["a red picture", "blue", "Green green RED"], batch_size=batch_size)
    assert np.allclose(actual, [unit((1, 0, 0)), unit((0, 0, 1)), unit((1, 2, 0))], atol=1e-5)


def test_nothing_gives_nothing(model):
    assert model.embed_pixels(np.empty((0, 16, 16, 3), np.uint8)).shape == (0, 3)
    assert model.embed_texts([]).shape == (0, 3)


@pytest.mark.parametrize("wrong", [np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 8, 8, 3), np.uint8)])
def test_other_pixels_are_refused(model, wrong):
    with pytest.raises(ValueError, match="expected uint8"):
        model.embed_pixels(wrong)


def test_texts_that_are_longer_than_the_model_reads(model):
    notes = ["`red red red red red red red red red ` is longer than the model reads: its end is ignored"]
    assert model.cut_notes(["red " * 8, "red " * 9, "blue"]) == notes


def test_a_precision_that_was_not_exported(bundle):
    with pytest.raises(UsageError, match="no fp16 image graph; it has fp32"):
        OnnxModel(bundle, precision="fp16")


def test_auto_takes_the_only_one_without_timing(bundle, monkeypatch):
    monkeypatch.setattr("clipline.runtime.model.fastest", None)
    model = OnnxModel(bundle, provider="cpu", precision="auto")
    assert model.precision_words == "fp32, the only one shipped" and model.variant.startswith("fp32-")
    assert OnnxModel(bundle, provider="cpu").precision_words == "fp32"


def test_auto_takes_the_fastest_of_those_shipped(make_bundle, tmp_path):
    """The second graph is certainly slower: it computes the mean colour many times."""
    folder = make_bundle(tmp_path / "onnx")
    graph = onnx.load(folder / "image.onnx")
    (mean,) = [node for node in graph.graph.node if node.op_type == "ReduceMean"]
    for index in range(200):
        slow = onnx.helper.make_node("Exp" if index % 2 else "Log", [f"slow{index}"], [f"slow{index + 1}"])
        graph.graph.node.insert(1 + index, slow)
    mean.input[0] = "slow200"
    graph.graph.node[0].output[0] = "slow0"
    data = graph.SerializeToString()
    (folder / "image.fp16.onnx").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    other = {"file": "image.fp16.onnx", "precision": "fp16", "variant": "fp16-slow"}
    other |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for image in (
        {"fp32": manifest["image"]["fp32"], "fp16": manifest["image"]["fp32"] | other},
        {"fp16": manifest["image"]["fp32"] | {"variant": "fp16-fast"}, "fp32": manifest["image"]["fp32"] | other},
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"image": image}))
        model = OnnxModel(folder, provider="cpu", precision="auto")
        first, second = image
        assert re.fullmatch(
            rf"{first}, the fastest here: {first} [\d,]+, {second} [\d,]+ images/s", model.precision_words
        )
        assert model.variant == image[first]["variant"] and model.running_on.startswith("CPU")
        assert np.allclose(model.embed_pixels(flat((200, 10, 10))), unit((200, 10, 10)), atol=1e-5)


def test_damaged_graphs(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "onnx")
    graph = folder / "image.onnx"
    original = graph.read_bytes()
    pixels = flat((1, 2, 3))

    graph.write_bytes(b"x" * len(original))
    with pytest.raises(UsageError, match=r"image\.onnx: not the file that manifest\.json describes"):
        OnnxModel(folder, provider="cpu").embed_pixels(pixels)
    with pytest.raises(CliplineError, match=r"image\.onnx: onnxruntime cannot load it"):
        session.Sessions("cpu", 1).open(graph)
    graph.write_bytes(original[:-9])
    with pytest.raises(UsageError, match="cut short"):
        OnnxModel(folder, provider="cpu").embed_pixels(pixels)
    graph.unlink()
    with pytest.raises(UsageError, match="no such file"):
        OnnxModel(folder, provider="cpu").embed_pixels(pixels)


@pytest.mark.parametrize("text", ["{}", "nonsense"])
def test_damaged_tokenizer(make_bundle, tmp_path, text):
    folder = make_bundle(tmp_path / "onnx")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        OnnxModel(folder, provider="cpu").embed_texts(["red"])


def test_missing_tokenizer(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "onnx")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        OnnxModel(folder, provider="cpu").embed_texts(["red"])


def test_auto_says_what_it_took_and_is_quiet(bundle):
    """In a separate process, since onnxruntime prints about CUDA without Python's streams."""
    program = (
        "import sys; from pathlib import Path; from clipline.runtime.model import OnnxModel\n"
        "model = OnnxModel(Path(sys.argv[1]), threads=2)\n"
        "print(model.running_on, model.on_cuda)\n"
        "print([name for name in ('torch', 'transformers', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(bundle)], check=True, capture_output=True, text=True)
    line, modules = done.stdout.splitlines()
    device = session.no_device() is None
    assert line.startswith("CUDA ") if device else line.endswith("False")
    assert device or line.startswith("CPU, 2 threads")
    assert modules == "[]"
    assert done.stderr == ""


@pytest.mark.skipif(session.no_device() is None, reason="this machine has an NVIDIA device")
def test_cuda_without_a_device_is_an_error(bundle):
    with pytest.raises(UsageError, match=r"CUDA was asked for, but .*Fix: .*--provider cpu") as caught:
        OnnxModel(bundle, provider="cuda")
    assert caught.value.exit_code == 2


def test_cuda_that_does_not_start(bundle, monkeypatch, capfd):
    """A driver and a device, but no CUDA libraries: onnxruntime falls back to the CPU, which `cuda` must not do."""
    if session.no_device() is None:
        pytest.skip("this machine has an NVIDIA device: CUDA would start")
    if session.CUDA not in session.load_onnxruntime().get_available_providers():
        pytest.skip("this onnxruntime is built without CUDA")
    monkeypatch.setattr(session, "no_device", lambda: None)
    with pytest.raises(UsageError, match="CUDA libraries do not load"):
        OnnxModel(bundle, provider="cuda").embed_pixels(flat((1, 2, 3)))
    automatic = OnnxModel(bundle, provider="auto", threads=1)
    assert automatic.running_on.startswith("CPU, 1 thread (its CUDA libraries do not load")
    assert np.allclose(automatic.embed_pixels(flat((200, 10, 10))), unit((200, 10, 10)), atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_no_onnxruntime_names_both_extras(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"clipline\[cpu\].*clipline\[gpu\]"):
        OnnxModel(bundle)


def test_half_an_onnxruntime_is_told_apart(bundle, monkeypatch):
    """Uninstalling one of two wheels leaves an empty package."""
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(UsageError, match="installed in part"):
        OnnxModel(bundle)


def test_what_it_runs_on_without_assertions(bundle):
    """python -O removes `assert` statements."""
    script = (
        "import sys; from pathlib import Path; from clipline.runtime.model import OnnxModel;"
        "print(OnnxModel(Path(sys.argv[1]), provider='cpu', threads=1).running_on)"
    )
    command = [sys.executable, "-O", "-c", script, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "CPU, 1 thread\n"


def test_texts_that_are_cut_are_named_by_their_beginning(model):
    (note,) = model.cut_notes(["red", "red " * 100])
    assert note.startswith("`red red") and note.endswith("…` is longer than the model reads: its end is ignored")
    assert len(note) < 120
