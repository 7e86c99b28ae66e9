"""Read everything that the stages wrote about a model."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.report.examples import Examples
from clipline.utils.checksums import file_hash, read_verified

LIBRARIES = ("torch", "timm", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu")
LIBRARIES += ("numpy", "pillow", "dvc", "mlflow")


@dataclass(frozen=True)
class RunSummary:
    """What one trained and exported model is made of, and its results.

    recipe, info: of models/checkpoint/config.json. settings, tags: of models/run.json, flat.
    rows: reports/train.csv, numbers by column. test: reports/metrics.json. export: reports/export.json.
    gates: `export` of params.yaml. manifest: models/onnx/manifest.json. prepared: data/prepared/report.json.
    weights: SHA-256 of the checkpoint. stored: path -> hash of each out in dvc.lock. versions: of the libraries here.
    references, caveat: of known.yaml, where they apply.
    """

    recipe: dict[str, Any]
    info: dict[str, Any]
    settings: dict[str, str]
    tags: dict[str, str]
    started: datetime
    rows: list[dict[str, float]]
    test: dict[str, float]
    export: dict[str, Any]
    gates: dict[str, Any]
    manifest: dict[str, Any]
    prepared: dict[str, Any]
    examples: Examples
    weights: str
    stored: dict[str, str]
    versions: dict[str, str]
    references: dict[str, Any] | None
    caveat: str | None

    @property
    def exported(self) -> dict[str, float]:
        """R@k of the exported fp32 graphs."""
        return self.export["test"]["onnx"]

    @property
    def dataset(self) -> str:
        """The name of the dataset's configuration."""
        return self.info["dataset"]

    @property
    def revision(self) -> str | None:
        """The commit that was checked out when it was trained; None outside a git repository."""
        revision = self.tags.get("git_revision", "unknown")
        return revision if revision != "unknown" else None


def gather(root: Path, data: Prepared, gates: dict[str, Any]) -> RunSummary:
    """Read the outs of all stages below `root`. Raises CliplineError where one is missing or damaged.

    gates: `export` of params.yaml.
    """
    config = _json(root / "models/checkpoint/config.json", "train")
    receipt = _json(root / "models/run.json", "train")
    test = _json(root / "reports/metrics.json", "evaluate")["test"]
    with _written_by("train", root / "models/checkpoint/model.safetensors"):
        weights = file_hash(root / "models/checkpoint/model.safetensors")
    literature = known()
    references = literature["references"].get(data.report["split"]["kind"])
    text = config["recipe"]["text"]
    return RunSummary(
        recipe=config["recipe"],
        info=config["info"],
        settings=receipt["params"],
        tags=receipt["tags"],
        started=datetime.fromtimestamp(receipt["started"] / 1000, UTC),
        rows=_rows(root / "reports/train.csv"),
        test=test,
        export=_json(root / "reports/export.json", "export"),
        gates=gates,
        manifest=_json(root / "models/onnx/manifest.json", "export"),
        prepared=data.report,
        examples=Examples.from_dict(_json(root / "reports/examples.json", "evaluate")),
        weights=weights,
        stored=stored(root / "dvc.lock"),
        versions=versions(),
        references=references if references and references["images"] == test["images"] else None,
        caveat=literature["caveats"].get(text["name"]) if text["weights"] != "random" else None,
    )


def known() -> dict[str, Any]:
    """The contents of known.yaml: published results, and caveats about pretrained towers."""
    return YAML(typ="safe", pure=True).load(files("clipline.report").joinpath("known.yaml").read_text("utf-8"))


def versions() -> dict[str, str]:
    """The versions of Python and of the installed libraries that affect results."""
    installed = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def stored(lock: Path) -> dict[str, str]:
    """The hash of each out in dvc.lock, by path; empty where there is no dvc.lock."""
    if not lock.is_file():
        return {}
    stages = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8")).get("stages") or {}
    outs = (out for stage in stages.values() for out in stage.get("outs", ()))
    return {out["path"]: out[out.get("hash", "md5")] for out in outs}


@contextmanager
def _written_by(stage: str, path: Path) -> Iterator[None]:
    """What goes wrong with a file as a CliplineError that names the stage which writes it."""
    try:
        yield
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: dvc repro {stage}") from None
    except ValueError as error:
        raise CliplineError(f"{path}: damaged: {error}. Fix: dvc repro --force {stage}") from None


def _json(path: Path, stage: str) -> dict[str, Any]:
    """The JSON that a stage wrote, compared with its checksum where it has one."""
    with _written_by(stage, path):
        return read_verified(path, required=False)


def _rows(path: Path) -> list[dict[str, float]]:
    with _written_by("train", path), path.open(encoding="utf-8", newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
