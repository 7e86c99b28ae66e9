"""Everything that the stages wrote about a model, read once; missing or damaged files are named."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
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

LIBRARIES = (
    "torch",
    "timm",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "pillow",
    "dvc",
    "mlflow",
)


@dataclass(frozen=True)
class Facts:
    """What one trained and exported model is made of and how it does.

    recipe and info: of models/checkpoint/config.json. settings and tags: of models/run.json, flat.
    rows: reports/train.csv, numbers by column. gates: `export` of params.yaml. weights: SHA-256 of the checkpoint.
    stored: what dvc.lock calls each out, path -> hash. references, caveat: of known.yaml, where they apply.
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
        """Name of the dataset's configuration."""
        return self.info["dataset"]

    @property
    def revision(self) -> str | None:
        """The commit that was checked out when it was trained; None outside a repository."""
        found = self.tags.get("git_revision", "unknown")
        return found if found != "unknown" else None


def gather(root: Path, data: Prepared, gates: dict[str, Any]) -> Facts:
    """Read the outs of all stages below `root`. Raises CliplineError where one is missing or damaged.

    gates: `export` of params.yaml.
    """
    config = _json(root / "models/checkpoint/config.json", "train")
    receipt = _json(root / "models/run.json", "train")
    test = _json(root / "reports/metrics.json", "evaluate")["test"]
    literature = known()
    references = literature["references"].get(data.report["split"]["kind"])
    text = config["recipe"]["text"]
    return Facts(
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
        weights=_hash(root / "models/checkpoint/model.safetensors"),
        stored=stored(root / "dvc.lock"),
        versions=versions(),
        references=references if references and references["images"] == test["images"] else None,
        caveat=literature["caveats"].get(text["name"]) if text["weights"] != "random" else None,
    )


def known() -> dict[str, Any]:
    """known.yaml: what the literature says."""
    return YAML(typ="safe", pure=True).load(files("clipline.report").joinpath("known.yaml").read_text("utf-8"))


def versions() -> dict[str, str]:
    """Python and the libraries that decide a result, as installed here."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stored(lock: Path) -> dict[str, str]:
    """The hash that dvc.lock keeps for each out; empty where there is no lock."""
    if not lock.is_file():
        return {}
    stages = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8")).get("stages") or {}
    outs = (out for stage in stages.values() for out in stage.get("outs", ()))
    return {out["path"]: out[out.get("hash", "md5")] for out in outs}


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: dvc repro train") from None


def _json(path: Path, stage: str) -> dict[str, Any]:
    """What a stage wrote, compared with its seal where it has one."""
    try:
        return read_verified(path, required=False)
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: dvc repro {stage}") from None
    except ValueError as error:
        raise CliplineError(f"{path}: damaged: {error}. Fix: dvc repro --force {stage}") from None


def _rows(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: dvc repro train") from None
    except ValueError as error:
        raise CliplineError(f"{path}: damaged: {error}. Fix: dvc repro --force train") from None
