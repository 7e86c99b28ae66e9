"""image.onnx -> image.fp16.onnx: weights and products in float16; nodes that need range or precision in float32.

It is meant for CUDA, and takes half the bytes on disk. onnxruntime has few float16 kernels for CPUs, where it is mostly
slower; `--precision auto` measures that.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

PRODUCTS = ("Conv", "MatMul", "Gemm")
# Softmax and norms; also norms that the exporter decomposes into means and squares, which overflow float16.
IN_FLOAT32 = (
    "Softmax",
    "LogSoftmax",
    "LayerNormalization",
    "RMSNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "BatchNormalization",
    "LpNormalization",
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL2",
    "Sub",
    "Pow",
    "Sqrt",
    "Reciprocal",
)


def to_fp16(source: Path, target: Path) -> None:
    """Convert the image graph `source` and write it to `target`; `pixels` stays uint8 and `embedding` float32."""
    model = onnx.load(source)
    model = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=DEFAULT_OP_BLOCK_LIST,
        node_block_list=sorted(_in_float32(model.graph)),
    )
    # Drop stale value_info, which has the types of the float32 graph; onnxruntime infers types itself.
    del model.graph.value_info[:]
    # The converter adds the same cast, under the same name, for each float32 node that reads a value ...
    nodes = {node.output[0]: node for node in model.graph.node}
    del model.graph.node[:]
    model.graph.node.extend(nodes.values())
    # ... and converts to float16 even between two float32 nodes, where squares overflow.
    casts = OnnxModel(model)
    casts.remove_cascaded_cast_nodes()
    casts.topological_sort()
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _in_float32(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that stay in float32: pixel scaling, norms, softmax, and the embedding's normalisation."""
    kept = {node.name for node in graph.node if node.op_type in IN_FLOAT32}
    kept |= _before_products(graph) | _after_products(graph)
    # Nodes between two of them stay too, such as the sum of a variance and its epsilon.
    producer = {name: node.name for node in graph.node for name in node.output}
    read_by_kept = {name for node in graph.node if node.name in kept for name in node.input}
    for node in graph.node:
        sources = {producer[name] for name in node.input if name in producer}
        if sources and sources <= kept and read_by_kept.intersection(node.output) and node.op_type not in PRODUCTS:
            kept.add(node.name)
    return kept


def _before_products(graph: onnx.GraphProto) -> set[str]:
    names, reached = set(), {value.name for value in graph.input}
    for node in graph.node:
        # Not by Shape: the batch size reaches every Reshape.
        if node.op_type != "Shape" and reached.intersection(node.input):
            names.add(node.name)
            # Including the first product: its weights contain the pixel scaling, and some are too small for float16.
            if node.op_type not in PRODUCTS:
                reached.update(node.output)
    return names


def _after_products(graph: onnx.GraphProto) -> set[str]:
    names, needed = set(), {value.name for value in graph.output}
    for node in reversed(graph.node):
        if node.op_type not in PRODUCTS and needed.intersection(node.output):
            names.add(node.name)
            needed.update(node.input)
    return names
