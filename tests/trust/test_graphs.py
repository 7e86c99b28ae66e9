"""ONNX files that no export made: refused in one line, before onnxruntime opens them."""

import hashlib
import json
import random
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from clipline import graph_file
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel


def write(folder, graph: onnx.ModelProto | bytes, side: str = "image") -> None:
    """Put a graph into a bundle as an attacker would: with its true size and hash in the manifest."""
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    (folder / f"{side}.onnx").write_bytes(data)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[side]["fp32"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def embed(folder) -> np.ndarray:
    model = OnnxModel(folder, provider="cpu", threads=1)
    return np.concatenate([model.embed_pixels(np.full((1, 16, 16, 3), 99, np.uint8)), model.embed_texts(["red"])])


def outside(tensor: TensorProto, location: str) -> None:
    """Let the tensor's bytes lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)


def constant(location: str) -> onnx.NodeProto:
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.0])
    outside(tensor, location)
    return helper.make_node("Constant", [], ["hidden"], value=tensor)


def in_a_branch(node: onnx.NodeProto) -> onnx.NodeProto:
    output = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1])
    branch = helper.make_graph([node], "branch", [], [output])
    return helper.make_node("If", ["condition"], ["never"], then_branch=branch)


def sparse(location: str) -> onnx.SparseTensorProto:
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [0.0])
    outside(values, location)
    return helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [0]), [4])


LOCATIONS = ["../../../../../../etc/passwd", "/etc/passwd", "tokenizer.json", "weights.bin", ""]
EXTERNAL = {
    "initializer": lambda graph, location: outside(graph.initializer[0], location),
    "constant": lambda graph, location: graph.node.insert(0, constant(location)),
    "branch": lambda graph, location: graph.node.insert(0, in_a_branch(constant(location))),
    "sparse": lambda graph, location: graph.sparse_initializer.append(sparse(location)),
    "flag": lambda graph, location: setattr(graph.initializer[0], "data_location", TensorProto.EXTERNAL),
}


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("place", EXTERNAL)
def test_tensors_in_other_files(make_bundle, tmp_path, place, location):
    """Inside the folder too: manifest.json has no hash of that file."""
    folder = make_bundle(tmp_path / "onnx")
    (folder / "weights.bin").write_bytes(bytes(64))
    model = onnx.load(folder / "image.onnx")
    EXTERNAL[place](model.graph, location)
    write(folder, model)
    with pytest.raises(UsageError, match=r"image\.onnx: its tensor '.*' lies in another file, .*Fix: export") as caught:
        embed(folder)
    assert "\n" not in str(caught.value)


def test_what_onnxruntime_itself_would_do(make_bundle, tmp_path):
    """1.31 refuses a path that leads out of the folder, whichever way; inside it, it reads what is there."""
    import onnxruntime

    for location, loads in (("../secret", False), (str(tmp_path / "secret"), False), ("link", False), ("in", True)):
        folder = make_bundle(tmp_path / f"onnx-{location.strip('./').replace('/', '_')}")
        for path in (tmp_path / "secret", folder / "in"):
            path.write_bytes(bytes(64))
        (folder / "link").symlink_to(tmp_path / "secret")
        model = onnx.load(folder / "image.onnx")
        scale = next(one for one in model.graph.initializer if one.name == "scale")
        outside(scale, location)
        (folder / "image.onnx").write_bytes(model.SerializeToString())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        arguments = folder / "image.onnx", options, ["CPUExecutionProvider"]
        if loads:
            assert onnxruntime.InferenceSession(*arguments)
        else:
            with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="path"):
                onnxruntime.InferenceSession(*arguments)


def change_operator(model):
    model.graph.node[0].domain = "com.evil"


def operator_in_branch(model):
    model.graph.node.insert(0, in_a_branch(helper.make_node("Load", [], ["hidden"], domain="com.microsoft")))


def add_function(model):
    opset = helper.make_opsetid("", 17)
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "Own", ["a"], ["b"], [node], [opset]))


def add_training(model):
    model.training_info.add().algorithm.CopyFrom(model.graph)


def rename_input(model):
    model.graph.input[0].name = "image"


def other_type(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def second_output(model):
    model.graph.output.append(helper.make_tensor_value_info("colour", TensorProto.FLOAT, ["batch", 3]))


def no_tensor(model):
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(model.graph.output[0].type))


def deep(model):
    node = helper.make_node("Identity", ["x"], ["hidden"])
    for _ in range(15):
        node = in_a_branch(node)
    model.graph.node.insert(0, node)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_operator, "its operator 'Cast' is of 'com.evil'"),
        (operator_in_branch, "its operator 'Load' is of 'com.microsoft'"),
        (add_function, "functions or a training graph"),
        (add_training, "functions or a training graph"),
        (rename_input, r"its inputs are image \(uint8\), where a model has pixels \(uint8\)"),
        (other_type, r"its inputs are pixels \(float32\)"),
        (second_output, r"its outputs are embedding \(float32\), colour \(float32\)"),
        (no_tensor, r"its outputs are embedding \(type 0\)"),
        (deep, "nested too deeply"),
    ],
)
def test_graphs_of_another_kind(make_bundle, tmp_path, change, message):
    folder = make_bundle(tmp_path / "onnx")
    model = onnx.load(folder / "image.onnx")
    change(model)
    write(folder, model)
    with pytest.raises(UsageError, match=message) as caught:
        embed(folder)
    assert "\n" not in str(caught.value)


def test_image_and_text_are_not_exchanged(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "onnx")
    write(folder, (folder / "text.onnx").read_bytes(), "image")
    with pytest.raises(UsageError, match=r"inputs are input_ids \(int64\), attention_mask \(int64\)"):
        embed(folder)


def test_initializers_among_the_inputs_are_taken(make_bundle, tmp_path):
    """As all files had them before IR version 4."""
    folder = make_bundle(tmp_path / "onnx")
    model = onnx.load(folder / "image.onnx")
    before = embed(folder)
    for one in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    write(folder, model)
    assert np.array_equal(embed(folder), before)


@pytest.mark.parametrize("data", [b"x", b"\x3a", b"\x3a\xff\xff\xff\xff\x7f", b"\xff" * 99, b"\x3b\x3c", b"\x08\x01"])
def test_what_is_no_protobuf(tmp_path, data):
    path = tmp_path / "image.onnx"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"image\.onnx: (not an ONNX file|cut short, or not an ONNX file)"):
        graph_file.check(path, "image")


def test_an_empty_and_a_huge_file(tmp_path):
    path = tmp_path / "image.onnx"
    for size in (0, 3 * 2**30):
        with path.open("wb") as file:
            file.truncate(size)  # a hole: no disk is used
        with pytest.raises(UsageError, match=f"{size:,} bytes, where a graph has 1 to"):
            graph_file.check(path, "image")


def test_many_fields_end(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_file, "MAX_FIELDS", 1000)
    (tmp_path / "image.onnx").write_bytes(b"\x28\x01" * 1001)
    with pytest.raises(UsageError, match="more than 1,000 fields"):
        graph_file.check(tmp_path / "image.onnx", "image")


def test_flipped_and_cut_bytes_end_in_an_answer(bundle, tmp_path):
    """500 damaged graphs: taken (the flip lies in weights or names) or refused, never another error, never slow."""
    whole, path, draw = (bundle / "image.onnx").read_bytes(), tmp_path / "image.onnx", random.Random(0)
    refused, began = 0, time.monotonic()
    for _ in range(500):
        data = bytearray(whole[: draw.randrange(1, len(whole))] if draw.random() < 0.2 else whole)
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            graph_file.check(path, "image")
        except UsageError:
            refused += 1
    assert 100 < refused < 500
    assert time.monotonic() - began < 60


def test_field_numbers_are_those_of_onnx():
    numbers = {
        "ModelProto": {"graph": 7, "training_info": 20, "functions": 25},
        "GraphProto": {"node": 1, "initializer": 5, "input": 11, "output": 12, "sparse_initializer": 15},
        "NodeProto": {"op_type": 4, "attribute": 5, "domain": 7},
        "AttributeProto": {"t": 5, "g": 6, "tensors": 10, "graphs": 11, "sparse_tensor": 22, "sparse_tensors": 23},
        "SparseTensorProto": {"values": 1, "indices": 2},
        "TensorProto": {"name": 8, "external_data": 13, "data_location": 14},
        "ValueInfoProto": {"name": 1, "type": 2},
        "TypeProto": {"tensor_type": 1},
        "TypeProto.Tensor": {"elem_type": 1},
    }
    for kind, fields in numbers.items():
        message = onnx
        for part in kind.split("."):
            message = getattr(message, part)
        found = {field.name: field.number for field in message.DESCRIPTOR.fields}
        assert {name: found[name] for name in fields} == fields
    # No other field of these holds a graph, a node or a tensor.
    carriers = {"GraphProto", "NodeProto", "TensorProto", "SparseTensorProto", "FunctionProto", "TrainingInfoProto"}
    for kind in ("ModelProto", "GraphProto", "NodeProto", "AttributeProto", "SparseTensorProto", "TensorProto"):
        fields = getattr(onnx, kind).DESCRIPTOR.fields
        holding = {field.name for field in fields if field.message_type and field.message_type.name in carriers}
        assert holding <= set(numbers[kind]), kind
    assert (graph_file.FLOAT, graph_file.UINT8, graph_file.INT64) == (
        TensorProto.FLOAT,
        TensorProto.UINT8,
        TensorProto.INT64,
    )


def test_a_bundle_of_the_export_stage_passes(bundle):
    assert embed(bundle).shape == (2, 3)
    for side in ("image", "text"):
        graph_file.check(bundle / f"{side}.onnx", side)
