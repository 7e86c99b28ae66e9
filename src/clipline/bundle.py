"""The exported model as a folder (models/onnx): two graphs, tokenizer, preprocessing, manifest.

`preprocess.json` and `manifest.json` are read and written here; running the graphs is `runtime`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from clipline.errors import UsageError
from clipline.image import Preprocess

SCHEMA_VERSION = 1


class _Json(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class PreprocessSpec(_Json):
    """preprocess.json. mean and std are inside the graph already; they stand here for other tools."""

    size: int
    resize: Literal["shortest", "squash"]
    interpolation: Literal["bicubic"] = "bicubic"
    antialias: Literal[True] = True
    mean: list[float]
    std: list[float]

    def make(self) -> Preprocess:
        """The preprocessing that it describes."""
        return Preprocess(self.size, self.resize)


class Graph(_Json):
    """One ONNX file. variant: its precision and the start of its hash, e.g. `fp32-1f0c9a63b2d4`."""

    file: str
    precision: Literal["fp32", "fp16", "int8"]
    variant: str
    sha256: str
    bytes: int
    min_cosine: float
    max_abs: float


class Manifest(_Json):
    """manifest.json. model_id: hash of weights and preprocessing; embeddings of another one never mix."""

    schema_version: int = SCHEMA_VERSION
    model_id: str
    dim: int
    recipe: str
    dataset: str
    dataset_fingerprint: str
    opset: int
    image: dict[str, Graph]
    text: dict[str, Graph]
    metrics: dict[str, float]


class Bundle:
    """A folder with an exported model, opened. Raises UsageError where it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read(folder / "manifest.json", Manifest)
        self.preprocess = _read(folder / "preprocess.json", PreprocessSpec)
        if self.manifest.schema_version > SCHEMA_VERSION:
            raise UsageError(f"{folder}: written by a newer clipline (schema {self.manifest.schema_version}): update")

    @property
    def tokenizer(self) -> Path:
        """Path of tokenizer.json, which pads and truncates by itself."""
        return self.folder / "tokenizer.json"


def write_json(path: Path, value: BaseModel | dict) -> None:
    """Write readable JSON with a stable key order."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(path: Path, kind: type) -> BaseModel:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file. A model folder is what the export stage writes (models/onnx)"
        ) from None
    except ValidationError as error:
        raise UsageError(f"{path}: damaged or not a clipline file: {error.errors()[0]['msg']}") from None
