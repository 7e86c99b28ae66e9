"""Hostile ONNX files: each is refused in one line, or harmless for the reason that its test gives.

The manifest's hashes protect from damage, not from someone who wrote the manifest too, so here every manifest agrees
with its hostile graph.
"""

import hashlib
import json
import random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from clipline.runtime.session import CONFINES_FILES, Sessions

SECRET = [7.0, 8.0, 9.0]
REFUSED = r"image\.onnx: onnxruntime cannot load it: .*Fix: export"


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


def assert_refused(folder, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        embed(folder)
    assert "\n" not in str(caught.value)


def external(name: str, location: str) -> TensorProto:
    """float32 [3] whose bytes lie in the file `location`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "12"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(location: str) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("indices", TensorProto.INT64, [3], [0, 1, 2])
    return helper.make_sparse_tensor(external("secret", location), indices, [3])


def branches(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes that compute `secret`, float32 [3], by `node` in both branches of an If."""
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [3])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    graphs = {name: helper.make_graph([node], name, [], [output]) for name in ("then_branch", "else_branch")}
    return [
        helper.make_node("Constant", [], ["yes"], value=true),
        helper.make_node("If", ["yes"], ["secret"], **graphs),
    ]


def reading(way: str, location: str) -> onnx.ModelProto:
    """An image graph whose embedding is the mean colour plus `secret`, which lies in another file."""
    nodes, initializers, sparse_initializers = [], [], []
    if way == "initializer":
        initializers = [external("secret", location)]
    elif way == "constant":
        nodes = [helper.make_node("Constant", [], ["secret"], value=external("secret", location))]
    elif way == "branch":
        nodes = branches(helper.make_node("Constant", [], ["hidden"], value=external("hidden", location)))
    elif way == "sparse initializer":
        sparse_initializers = [sparse(location)]
    elif way == "sparse constant":
        nodes = [helper.make_node("Constant", [], ["secret"], sparse_value=sparse(location))]
    return image_graph(
        [*nodes, helper.make_node("Add", ["mean", "secret"], ["embedding"])], initializers, sparse_initializers
    )


def image_graph(nodes, initializers=(), sparse_initializers=()) -> onnx.ModelProto:
    """A graph with the contract's input and output; `nodes` make `embedding` of `mean`, float32 [batch, 3]."""
    first = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        [*first, *nodes],
        "hostile",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 16, 16, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])],
        list(initializers),
        sparse_initializer=list(sparse_initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WAYS = ["initializer", "constant", "branch", "sparse initializer", "sparse constant"]
IN_MEMORY = "*/_ORT_MEM_ADDR_/*"  # onnxruntime's mark of a tensor at a memory address; older versions crash on it


@pytest.fixture
def files(make_bundle, tmp_path):
    """A bundle that holds `beside` and `link`, which leads to `secret` outside it; both files have three floats."""
    folder = make_bundle(tmp_path / "onnx")
    for path in (tmp_path / "secret", folder / "beside"):
        path.write_bytes(np.array(SECRET, np.float32).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


@pytest.mark.parametrize("location", ["../secret", "{outside}", "link", "x/../../secret", "/dev/zero", IN_MEMORY, ""])
@pytest.mark.parametrize("way", WAYS)
def test_a_tensor_outside_the_folder_is_refused(files, way, location):
    write(files, reading(way, location.format(outside=files.parent / "secret")))
    assert_refused(files, r"image\.onnx: (onnxruntime cannot load it|a tensor may lie in another file)")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("location", ["beside", "./beside"])
def test_a_tensor_beside_the_graph_is_read(files, way, location):
    """Harmless: a file of the same folder, whose author wrote the graph too. No hash covers it."""
    write(files, reading(way, location))
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < CONFINES_FILES:
        assert_refused(files, "a tensor may lie in another file")
    else:
        assert np.array_equal(embed(files)[0], np.float32(99) + np.float32(SECRET))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("location", ["../secret", "beside"])
def test_an_onnxruntime_that_reads_any_file_gets_no_such_graph(files, monkeypatch, way, location):
    """Versions up to 1.26 were seen to read files outside the folder, or to crash on an address in memory."""
    monkeypatch.setattr(onnxruntime, "__version__", "1.26.0")
    embed(files)
    write(files, reading(way, location))
    assert_refused(files, r"image\.onnx: a tensor may lie in another file, .*1\.26\.0 .*Fix: pip install")


def unknown_operator(model):
    model.graph.node[0].domain = "com.evil"


def unknown_operator_in_a_branch(model):
    hide(model, helper.make_node("Load", [], ["hidden"], domain="com.microsoft"))


def hide(model, node) -> None:
    """Compute `secret` by `node`; nothing uses it."""
    for one in reversed(branches(node)):
        model.graph.node.insert(0, one)


def missing_location(model):
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def renamed_input(model):
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"


def other_type(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def no_shape(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")


def second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, ["batch"]))


def second_output(model):
    model.graph.output.append(helper.make_tensor_value_info("colour", TensorProto.FLOAT, ["batch", 3]))


def no_tensor(model):
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(model.graph.output[0].type))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_operator, REFUSED),
        (unknown_operator_in_a_branch, REFUSED),
        (missing_location, REFUSED),
        (no_tensor, REFUSED),
        (renamed_input, r"no image graph of a model: its inputs and outputs are image tensor\(uint8\)"),
        (other_type, r"are pixels tensor\(float\)"),
        (no_shape, r"are pixels tensor\(uint8\) \[\]"),
        (second_input, r"size tensor\(int64\) \['batch'\]"),
        (second_output, r"colour tensor\(float\) \['batch', 3\]"),
    ],
)
def test_graphs_of_another_kind_are_refused(make_bundle, tmp_path, change, message):
    folder = make_bundle(tmp_path / "onnx")
    model = onnx.load(folder / "image.onnx")
    change(model)
    write(folder, model)
    assert_refused(folder, message)


def test_image_and_text_are_not_exchanged(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "onnx")
    write(folder, (folder / "text.onnx").read_bytes(), "image")
    assert_refused(folder, r"no image graph of a model: its inputs and outputs are input_ids tensor\(int64\)")
    folder = make_bundle(tmp_path / "other")
    write(folder, (folder / "image.onnx").read_bytes(), "text")
    assert_refused(folder, r"no text graph of a model: its inputs and outputs are pixels tensor\(uint8\)")


def used_function(model):
    """A function is a graph with a name: its nodes are operators that the graph itself may have."""
    node = helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT)
    model.functions.append(helper.make_function("own", "Own", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].CopyFrom(helper.make_node("Own", ["pixels"], ["float"], domain="own"))


def training_graph(model):
    """onnxruntime's sessions ignore it."""
    model.training_info.add().algorithm.CopyFrom(model.graph)


def operator_of_onnxruntime(model):
    """Such operators are what onnxruntime's optimiser writes; they only do arithmetic."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    fused = helper.make_node("FusedMatMul", ["colour", "less_grey"], ["coloured"], domain="com.microsoft")
    next(node for node in model.graph.node if node.output[0] == "coloured").CopyFrom(fused)


def nested_branches(model):
    """Each level takes some stack; protobuf reads at most a hundred."""
    node = helper.make_node("Constant", [], ["hidden"], value=helper.make_tensor("h", TensorProto.FLOAT, [3], SECRET))
    for _ in range(10):
        output = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [3])
        graphs = {name: helper.make_graph([node], name, [], [output]) for name in ("then_branch", "else_branch")}
        node = helper.make_node("If", ["yes"], ["hidden"], **graphs)
    hide(model, node)


def initializers_among_the_inputs(model):
    """All files had them there before IR version 4."""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


@pytest.mark.parametrize(
    "change", [used_function, training_graph, operator_of_onnxruntime, nested_branches, initializers_among_the_inputs]
)
def test_harmless_for_the_reason_of_its_docstring(make_bundle, tmp_path, change):
    folder = make_bundle(tmp_path / "onnx")
    before, model = embed(folder), onnx.load(folder / "image.onnx")
    change(model)
    write(folder, model)
    assert np.array_equal(embed(folder), before)


def deep() -> bytes:
    """Graphs in attributes of nodes of graphs, forty levels; protobuf reads a hundred nested messages at most."""
    data = b""
    for field in [6, 5, 1] * 40 + [7]:
        data = bytes([field << 3 | 2, len(data) & 127 | 128, len(data) >> 7]) + data
    return data


NO_GRAPHS = [b"", b"x", b"\x3a", b"\x3a\xff\xff\xff\xff\x7f", b"\xff" * 99, b"\x3b\x3c", b"\x08\x01"]
NO_GRAPHS += [b"\x28\x01" * 10**6, deep()]


@pytest.mark.parametrize("data", NO_GRAPHS, ids=lambda data: data[:6].hex())
def test_what_is_no_graph_is_refused(make_bundle, tmp_path, data):
    folder = make_bundle(tmp_path / "onnx")
    write(folder, data)
    assert_refused(folder, REFUSED)


@pytest.mark.parametrize("name", ["image.onnx", "image.ort"])
def test_other_formats_are_refused(make_bundle, tmp_path, name):
    """onnxruntime has a second format, which it recognises by the file's name."""
    folder = make_bundle(tmp_path / "onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "written.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(folder / "image.onnx", options, ["CPUExecutionProvider"])
    write(folder, (tmp_path / "written.ort").read_bytes())
    (folder / "image.onnx").rename(folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["image"]["fp32"]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(folder, rf"{name}: onnxruntime cannot load it")


def test_a_huge_file_is_refused_before_it_takes_memory(tmp_path):
    path = tmp_path / "image.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # a hole: no disk is used
    with pytest.raises(UsageError, match=REFUSED):
        Sessions("cpu", 1).open(path)


def test_flipped_and_cut_bytes_end_in_an_answer(bundle, tmp_path, capfd):
    """500 damaged graphs: taken (the flip lies in weights or names) or refused, never another error or more lines."""
    original, path, draw = (bundle / "image.onnx").read_bytes(), tmp_path / "image.onnx", random.Random(0)
    sessions, refused = Sessions("cpu", 1), 0
    for _ in range(500):
        data = bytearray(original[: draw.randrange(1, len(original))] if draw.random() < 0.2 else original)
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            sessions.open(path)
        except UsageError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 100 < refused < 500
    assert capfd.readouterr() == ("", "")


def test_a_bundle_of_the_export_stage_passes(bundle):
    assert embed(bundle).shape == (2, 3)
