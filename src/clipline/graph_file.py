"""Look into an ONNX file before onnxruntime opens it: one file, standard operators, the contract's inputs and output.

An ONNX file may name other files for its tensors, bring functions of its own and operators of other libraries. A model
that was exported here has none of these, so they are refused, whatever onnxruntime of whatever version would do. The
format is protobuf (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, the source of the field numbers below;
https://protobuf.dev/programming-guides/encoding/). Its skeleton alone is read, weights are passed over: 4 ms for a
text tower of 100 MB, and the `onnx` package is not needed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from clipline.errors import UsageError

# Element types of tensors (onnx.proto, TensorProto.DataType).
FLOAT, UINT8, INT64 = 1, 2, 7
TYPES = {FLOAT: "float32", UINT8: "uint8", INT64: "int64"}
CONTRACT: dict[str, dict[str, int]] = {
    "image": {"pixels": UINT8},
    "text": {"input_ids": INT64, "attention_mask": INT64},
}
OUTPUT = {"embedding": FLOAT}
STANDARD = {"", "ai.onnx"}
# Protobuf's own limit on a file; fields and depth that no exported tower comes near.
MAX_BYTES, MAX_FIELDS, MAX_DEPTH = 2**31 - 1, 5_000_000, 20
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """number: which one. value: of a varint; else start, and stop behind it: where its bytes lie in the file."""

    number: int
    wire: int
    value: int
    stop: int


class _Refused(Exception):
    """Why the file is no model of ours."""


def check(path: Path, side: str) -> None:
    """Raises UsageError where `path` is no graph as the export stage writes it. side: `image` or `text`."""
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise _Refused(f"{size:,} bytes, where a graph has 1 to {MAX_BYTES:,}")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graph = _Graph(data)
            graph.model()
        graph.fits(CONTRACT[side])
    except _Refused as refused:
        raise UsageError(f"{path}: {refused}. Fix: export the model again") from None


class _Graph:
    """The skeleton of a file. inputs, outputs: names to element types; given: names of initializers."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.inputs: dict[str, int] = {}
        self.outputs: dict[str, int] = {}
        self.given: set[str] = set()
        self._left = MAX_FIELDS

    def model(self) -> None:
        """ModelProto."""
        graphs = 0
        for field in self._fields(0, len(self.data)):
            if field.number == 7:
                graphs += 1
                self._graph(field, 0)
            elif field.number in {20, 25}:
                raise _Refused("it brings functions or a training graph of its own")
        if graphs != 1:
            raise _Refused("not an ONNX file")

    def fits(self, wanted: Mapping[str, int]) -> None:
        """Raises _Refused where inputs or output are others than `wanted` and `embedding`."""
        # Before IR version 4 every initializer stood among the inputs too.
        found = {name: kind for name, kind in self.inputs.items() if name not in self.given}
        for what, there, should in (("inputs", found, wanted), ("outputs", self.outputs, OUTPUT)):
            if there != should:
                raise _Refused(f"its {what} are {_named(there)}, where a model has {_named(should)}")

    def _graph(self, field: _Field, depth: int) -> None:
        """GraphProto."""
        for each in self._inside(field, depth):
            if each.number == 1:
                self._node(each, depth)
            elif each.number == 5:
                name = self._tensor(each, depth)
                if not depth:
                    self.given.add(name)
            elif each.number == 15:
                self._sparse(each, depth)
            elif each.number in {11, 12} and not depth:
                name, kind = self._value(each, depth)
                (self.inputs if each.number == 11 else self.outputs)[name] = kind

    def _node(self, field: _Field, depth: int) -> None:
        """NodeProto."""
        kind, domain = "", ""
        for each in self._inside(field, depth):
            if each.number == 4:
                kind = self._text(each)
            elif each.number == 7:
                domain = self._text(each)
            elif each.number == 5:
                self._attribute(each, depth + 1)
        if domain not in STANDARD:
            raise _Refused(f"its operator {kind[:60]!r} is of {domain[:60]!r}, not one of ONNX's own")

    def _attribute(self, field: _Field, depth: int) -> None:
        """AttributeProto."""
        for each in self._inside(field, depth):
            if each.number in {5, 10}:
                self._tensor(each, depth)
            elif each.number in {22, 23}:
                self._sparse(each, depth)
            elif each.number in {6, 11}:
                self._graph(each, depth + 1)

    def _sparse(self, field: _Field, depth: int) -> None:
        """SparseTensorProto."""
        for each in self._inside(field, depth):
            if each.number in {1, 2}:
                self._tensor(each, depth)

    def _tensor(self, field: _Field, depth: int) -> str:
        """TensorProto; its name."""
        name, outside = "", False
        for each in self._inside(field, depth):
            if each.number == 8:
                name = self._text(each)
            elif each.number == 13 or (each.number == 14 and each.value):
                outside = True
        if outside:
            raise _Refused(f"its tensor {name[:60]!r} lies in another file, and a model is one file")
        return name

    def _value(self, field: _Field, depth: int) -> tuple[str, int]:
        """ValueInfoProto: name, and element type; 0 where it is no tensor."""
        name, kind = "", 0
        for each in self._inside(field, depth):
            if each.number == 1:
                name = self._text(each)
            elif each.number == 2:
                tensors = [one for one in self._inside(each, depth) if one.number == 1]
                kinds = [one.value for tensor in tensors for one in self._inside(tensor, depth) if one.number == 1]
                kind = kinds[-1] if kinds else 0
        return name, kind

    def _text(self, field: _Field) -> str:
        if field.wire != BYTES:
            raise _Refused("not an ONNX file")
        return self.data[field.value : min(field.stop, field.value + 1000)].decode("utf-8", "replace")

    def _inside(self, field: _Field, depth: int) -> Iterator[_Field]:
        if field.wire != BYTES or depth > MAX_DEPTH:
            raise _Refused("not an ONNX file" if field.wire != BYTES else "its graphs are nested too deeply")
        return self._fields(field.value, field.stop)

    def _fields(self, at: int, end: int) -> Iterator[_Field]:
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise _Refused(f"more than {MAX_FIELDS:,} fields")
            key, at = self._varint(at, end)
            wire, value = key & 7, at
            if wire == VARINT:
                value, at = self._varint(at, end)
            elif wire == BYTES:
                size, value = self._varint(at, end)
                at = value + size
            elif wire in {FIXED64, FIXED32}:
                at += 8 if wire == FIXED64 else 4
            else:
                raise _Refused("not an ONNX file")
            if at > end:
                raise _Refused("cut short, or not an ONNX file")
            yield _Field(key >> 3, wire, value, at)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at `at`, and where it ends."""
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at
        raise _Refused("cut short, or not an ONNX file")


def _named(values: Mapping[str, int]) -> str:
    kinds = (f"{name[:60]} ({TYPES.get(kind, f'type {kind}')})" for name, kind in list(values.items())[:5])
    return ", ".join(kinds) or "none"
