"""Select the nodes of an image graph to quantise, and keep onnxruntime from quantising the others."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

ACTIVATIONS, BETWEEN = ("Relu", "Clip"), ("Add", "MaxPool")


class Layers:
    """The layers of a graph that can be quantised, in the graph's order.

    names: Conv and MatMul nodes with constant weights; a layer that stays in float keeps its activation in float too.
    kinds: the operators of all nodes to quantise.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {tensor.name for tensor in graph.initializer}
        self.names = [node.name for node in graph.node if self._is_layer(node)]
        self._activation_of: dict[str, str] = {}
        self._between: list[str] = []
        self._follow(graph)
        self.kinds = ["Conv", "MatMul", *ACTIVATIONS, *BETWEEN]

    def quantised(self, in_float: set[str]) -> list[str]:
        """Names of the nodes to quantise where the layers `in_float` stay in float."""
        layers = [name for name in self.names if name not in in_float]
        return layers + [self._activation_of[name] for name in layers if name in self._activation_of] + self._between

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        return node.op_type in ("Conv", "MatMul") and node.input[1] in self._constants

    def _follow(self, graph: onnx.GraphProto) -> None:
        """Find the nodes between convolutions: their activations, and the sums and pools of their outputs."""
        convolution_of: dict[str, str] = {}  # tensor -> the Conv that computes it
        convolved: set[str] = set()  # tensors that a Conv, or a node between two, computes
        for node in graph.node:
            source, out = node.input[0] if node.input else "", node.output[0]
            if node.op_type == "Conv":
                convolution_of[out] = node.name
            elif node.op_type in ACTIVATIONS and source in convolution_of:
                self._activation_of[convolution_of[source]] = node.name
            elif (
                node.op_type in (*ACTIVATIONS, *BETWEEN)
                and convolved.issuperset(name for name in node.input if name not in self._constants)
                and not (node.op_type == "Add" and self._constants.intersection(node.input))
            ):
                self._between.append(node.name)
            else:
                continue
            convolved.add(out)


def guard_float_layers(graph: onnx.GraphProto) -> None:
    """Keep onnxruntime from quantising the layers of `graph` that were left in float.

    Where a float Conv or Gemm has QuantizeLinear before and after it, onnxruntime quantises it when it loads the graph,
    with one scale for all channels (WeightBiasQuantization): cosine 0.74 instead of 0.99. A maximum with the lowest
    float changes no value, and does not match that pattern.
    """
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    lowest = numpy_helper.from_array(np.array(np.finfo(np.float32).min), "lowest_float")
    nodes = []
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[0] in dequantised and node.input[1] not in dequantised:
            guarded = f"{node.name}_guarded"
            nodes.append(helper.make_node("Max", [node.input[0], lowest.name], [guarded], name=f"{node.name}_guard"))
            node.input[0] = guarded
        nodes.append(node)
    if len(nodes) > len(graph.node):
        graph.initializer.append(lowest)
        del graph.node[:]
        graph.node.extend(nodes)
