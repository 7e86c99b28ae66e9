"""One torch module -> one ONNX file with the names of the contract (`runtime.session`)."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

# Towers have values called `embedding` too: export under a temporary name, then rename.
_TEMPORARY = "clipline_output"
OUTPUT = "embedding"


def export_graph(module: nn.Module, inputs: dict[str, Tensor], axes: list[str], path: Path, opset: int) -> None:
    """Write `module` as ONNX with a dynamic size in each of the first `len(axes)` dimensions of every input.

    inputs: name -> example tensor, of size 2 or more in each dynamic dimension: the exporter takes 1 for a constant.
    axes: names of the dynamic dimensions, e.g. ["batch", "length"].
    """
    dynamic = {index: torch.export.Dim.DYNAMIC for index in range(len(axes))}
    with warnings.catch_warnings():
        # The exporter warns about its own deprecated internals on every call.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            # Copies: the same tensor for two inputs would be traced as one input.
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
    _drop_metadata(model.graph)
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
    """Rename the exporter's symbols, such as s43 and s53, to `batch` and `length` in the inputs and the output."""
    # Drop stale value_info, whose shapes have the old symbols; onnxruntime infers shapes itself.
    del graph.value_info[:]
    for value in graph.input:
        for dim, name in zip(value.type.tensor_type.shape.dim, axes, strict=False):
            dim.dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = axes[0]


def _drop_metadata(graph: onnx.GraphProto) -> None:
    """Drop the exporter's stack traces: they contain paths of this machine, on which the file's hash would depend."""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
