"""image.onnx -> image.fp16.onnx: weights and products in float16; what needs range or precision in float32.

For CUDA, and half the bytes on disk. onnxruntime has few float16 kernels for CPUs, so there it is mostly slower:
`--precision auto` measures that.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

PRODUCTS = ("Conv", "MatMul", "Gemm")
# Softmax, and norms; also those that the exporter writes out as means and squares, which float16 cannot hold.
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


def to_half(source: Path, target: Path) -> None:
    """Write the image graph `source` as `target`; `pixels` stays uint8 and `embedding` float32."""
    model = onnx.load(source)
    half = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=DEFAULT_OP_BLOCK_LIST,
        node_block_list=sorted(_in_float32(model.graph)),
    )
    # Types that were inferred for the float32 graph serve nobody: onnxruntime infers them itself.
    del half.graph.value_info[:]
    # The converter casts a value once for every node in float32 that reads it, always under the same name ...
    nodes = {node.output[0]: node for node in half.graph.node}
    del half.graph.node[:]
    half.graph.node.extend(nodes.values())
    # ... and goes through float16 even between two nodes in float32, where squares overflow.
    tidy = OnnxModel(half)
    tidy.remove_cascaded_cast_nodes()
    tidy.topological_sort()
    onnx.checker.check_model(half)
    onnx.save(half, target)


def _in_float32(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes to keep: scaling of the pixels, norms and softmax, the embedding's division by its length."""
    kept = {node.name for node in graph.node if node.op_type in IN_FLOAT32}
    kept |= _before_products(graph) | _behind_products(graph)
    # What stands between two kept nodes, such as the epsilon that goes to a variance, belongs to them.
    producer = {name: node.name for node in graph.node for name in node.output}
    read_by_kept = {name for node in graph.node if node.name in kept for name in node.input}
    for node in graph.node:
        sources = {producer[name] for name in node.input if name in producer}
        if sources and sources <= kept and read_by_kept.intersection(node.output) and node.op_type not in PRODUCTS:
            kept.add(node.name)
    return kept


def _before_products(graph: onnx.GraphProto) -> set[str]:
    found, reached = set(), {value.name for value in graph.input}
    for node in graph.node:
        # The number of images reaches every Reshape: that is no scaling.
        if node.op_type != "Shape" and reached.intersection(node.input):
            found.add(node.name)
            # The first product too: the pixels' scaling is in its weights, some of them too small for float16.
            if node.op_type not in PRODUCTS:
                reached.update(node.output)
    return found


def _behind_products(graph: onnx.GraphProto) -> set[str]:
    found, wanted = set(), {value.name for value in graph.output}
    for node in reversed(graph.node):
        if node.op_type not in PRODUCTS and wanted.intersection(node.output):
            found.add(node.name)
            wanted.update(node.input)
    return found
