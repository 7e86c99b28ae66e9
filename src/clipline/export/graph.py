"""One torch module -> one ONNX file with the names that the contract promises."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

# Towers have values called `embedding` of their own: export under a name that none has, then rename.
_TEMPORARY = "clipline_output"
OUTPUT = "embedding"


def export_graph(module: nn.Module, inputs: dict[str, Tensor], axes: list[str], path: Path, opset: int) -> None:
    """Write `module` as ONNX with a dynamic size in each of the first `len(axes)` dimensions of every input.

    inputs: name -> example; at least 2 in each dynamic dimension, or it would be taken for a constant.
    axes: the dynamic dimensions' names, e.g. ["batch", "length"].
    """
    dynamic = {index: torch.export.Dim.DYNAMIC for index in range(len(axes))}
    with warnings.catch_warnings():
        # The exporter warns about its own deprecated internals on every call.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            # Copies: two inputs that are one tensor would be traced as one input.
            tuple(tensor.clone() for tensor in inputs.values()),
            path,
            dynamo=True,
            dynamic_shapes=(dynamic,) * len(inputs),
            input_names=list(inputs),
            output_names=[_TEMPORARY],
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    _rename(model.graph, OUTPUT, "tower_embedding")
    _rename(model.graph, _TEMPORARY, OUTPUT)
    _name_axes(model.graph, axes)
    _forget_origin(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for value in (*graph.initializer, *graph.value_info, *graph.output):
        if value.name == old:
            value.name = new


def _name_axes(graph: onnx.GraphProto, axes: list[str]) -> None:
    """The exporter's s43 and s53 become `batch` and `length`, in the inputs and the output."""
    # Inner shapes name the same symbols and serve nobody: onnxruntime infers them itself.
    del graph.value_info[:]
    for value in graph.input:
        for dim, name in zip(value.type.tensor_type.shape.dim, axes, strict=False):
            dim.dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = axes[0]


def _forget_origin(graph: onnx.GraphProto) -> None:
    """Without the exporter's stack traces: they name folders of this machine, and the file's hash would follow them."""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
