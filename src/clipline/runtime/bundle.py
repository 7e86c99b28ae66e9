"""The exported model as a folder (models/onnx): image and text graphs, tokenizer, preprocessing and manifest.

This module describes `preprocess.json` and `manifest.json` and checks every file; `model` runs the graphs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clipline.errors import UsageError
from clipline.image import Preprocess
from clipline.utils import checksums

SCHEMA_VERSION = 1
# Limits on files that are read into memory: far more bytes than any model needs.
MAX_JSON, MAX_TOKENIZER = 16 * 2**20, 256 * 2**20
PLAIN_NAME = r"^\w[\w.-]*$"
COPY = "Fix: copy the folder again, or export the model again"
# The precisions of image graphs, from the most exact, and what a user may ask for.
Precision = Literal["fp32", "fp16", "int8"]
PrecisionChoice = Literal["auto", Precision]


class _Json(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class PreprocessSpec(_Json):
    """preprocess.json. mean and std are part of the graph; they are listed for other tools."""

    size: int = Field(ge=1, le=8192)
    resize: Literal["shortest", "squash"]
    interpolation: Literal["bicubic"] = "bicubic"
    antialias: Literal[True] = True
    mean: list[float] = Field(min_length=3, max_length=3)
    std: list[float] = Field(min_length=3, max_length=3)

    def make(self) -> Preprocess:
        """The preprocessing that the file describes."""
        return Preprocess(self.size, self.resize)


class Graph(_Json):
    """One ONNX file. variant: its precision and the start of its hash, e.g. `fp32-1f0c9a63b2d4`.

    min_cosine, max_abs: its parity with torch, or with fp32 where it has another precision.
    """

    file: str = Field(pattern=PLAIN_NAME)
    precision: Precision
    variant: str
    sha256: str
    bytes: int
    min_cosine: float
    max_abs: float


class Manifest(_Json):
    """manifest.json.

    model_id: hash of weights, tokenizer and preprocessing; embeddings of different ids cannot be compared. dim: length
    of an embedding. image, text: precision -> graph. files: SHA-256 of tokenizer.json and preprocess.json; empty in
    bundles of an older clipline. logit_scale: 1 / tau; the softmax of logit_scale * cosine is that of the trained
    model. None where no single number gives it, and in bundles of an older clipline.
    """

    schema_version: int = SCHEMA_VERSION
    model_id: str
    dim: int = Field(ge=1, le=65_536)
    recipe: str
    dataset: str
    dataset_fingerprint: str
    opset: int
    image: dict[str, Graph]
    text: dict[str, Graph]
    metrics: dict[str, float]
    files: dict[str, str] = {}
    logit_scale: float | None = None


class Bundle:
    """The folder of an exported model. Raises UsageError where it is none, or is damaged.

    Each file is compared with its hash in manifest.json when it is first used: 55 ms for 100 MB.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path, data = folder / "manifest.json", self._read("manifest.json", MAX_JSON)
        self.manifest = _parse(path, data, Manifest)
        try:
            # Bundles of an older clipline have no checksum.
            checksums.verify_checksum(json.loads(data), required=False)
        except ValueError as error:
            raise UsageError(f"{path}: damaged: {error}. {COPY}") from None
        if self.manifest.schema_version > SCHEMA_VERSION:
            raise UsageError(f"{folder}: written by a newer clipline (schema {self.manifest.schema_version}): update")
        self.preprocess = _parse(folder / "preprocess.json", self._read("preprocess.json", MAX_JSON), PreprocessSpec)

    @property
    def tokenizer(self) -> Path:
        """The path of tokenizer.json, which defines padding and truncation too."""
        return self.folder / "tokenizer.json"

    def read_tokenizer(self) -> str:
        """The text of tokenizer.json. Raises UsageError where it is missing or damaged."""
        try:
            return self._read("tokenizer.json", MAX_TOKENIZER).decode()
        except UnicodeDecodeError:
            raise UsageError(f"{self.tokenizer}: damaged: not UTF-8. {COPY}") from None

    def graph_path(self, graph: Graph) -> Path:
        """The path of one of the manifest's graphs. Raises UsageError where the file is missing or damaged."""
        path = self.folder / graph.file
        if not path.is_file():
            raise UsageError(f"{path}: no such file, but manifest.json names it. Fix: export the model again")
        if path.stat().st_size != graph.bytes:
            raise UsageError(
                f"{path}: {path.stat().st_size:,} bytes where manifest.json says {graph.bytes:,}: cut short, "
                f"or from another export. {COPY}"
            )
        _compare(path, checksums.file_hash(path), graph.sha256)
        return path

    def _read(self, name: str, max_bytes: int) -> bytes:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            raise UsageError(
                f"{path}: no such file. A model folder is what the export stage writes (models/onnx)"
            ) from None
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
        if len(data) > max_bytes:
            raise UsageError(f"{path}: over {max_bytes:,} bytes: no file of a model")
        if name != "manifest.json" and name in self.manifest.files:
            _compare(path, hashlib.sha256(data).hexdigest(), self.manifest.files[name])
        return data


def _parse(path: Path, data: bytes, schema: type[BaseModel]) -> BaseModel:
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(f"{path}: damaged or not a clipline file: {error.errors()[0]['msg']}. {COPY}") from None


def _compare(path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise UsageError(
            f"{path}: not the file that manifest.json describes (its sha256 begins with {actual[:12]}, where "
            f"{expected[:12]} should be): damaged, or from another export. {COPY}"
        )
