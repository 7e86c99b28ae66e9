"""The exported bundle as an MLflow model of a run: a pyfunc "from code" (`registry/served.py`), without pickle."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model, ModelSignature

NAME = "clip"
PACKAGE = Path(__file__).parents[1]
SERVED = PACKAGE / "registry" / "served.py"
EXAMPLE = "two dogs play in the snow"


def log_bundle(client: MlflowClient, run_id: str, folder: Path, tags: Mapping[str, str]) -> None:
    """Log the bundle in `folder` with signature, example, requirements and clipline's own code.

    The run's earlier models of that name are deleted, except registered ones: a registered version is loaded from its
    run's model.

    `mlflow.pyfunc.log_model` is not used: without MLflow's global "active run" it puts the model into the default
    experiment and ./mlruns.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    manifest = json.loads((folder / "manifest.json").read_bytes())
    experiment = client.get_run(run_id).info.experiment_id
    earlier = logged_models(client, run_id)
    logged = client.create_logged_model(
        experiment, NAME, source_run_id=run_id, tags={**model_tags(manifest), **tags}, model_type="clip"
    )
    model = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
    with tempfile.TemporaryDirectory() as scratch:
        save(folder, Path(scratch) / "model", model, manifest["dim"])
        client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    registered = {logged_id(version) for version in client.search_model_versions(f"run_id = '{run_id}'")}
    for old in earlier:
        if old.model_id not in registered:
            client.delete_logged_model(old.model_id)


def logged_models(client: MlflowClient, run_id: str, name: str | None = NAME) -> list[LoggedModel]:
    """The run's models of that name (None: of any name), finalized or not, the newest first."""
    experiment = client.get_run(run_id).info.experiment_id
    query = f"source_run_id = '{run_id}'" + (f" AND name = '{name}'" if name else "")
    newest = [{"field_name": "creation_timestamp", "ascending": False}]
    return list(client.search_logged_models([experiment], query, order_by=newest))


def logged_id(version: ModelVersion) -> str | None:
    """The id of the logged model that was registered as `version`; None where another kind of source was registered.

    MLflow's own database keeps it in `source` alone.
    """
    match = re.fullmatch(r"models:/([\w-]+)", version.source or "")
    return version.model_id or (match[1] if match else None)


def model_tags(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The model's tags, from manifest.json: recipe, data, precisions, and the R@1 of the exported graphs in percent."""
    tags = {name: str(manifest[name]) for name in ("model_id", "recipe", "dataset", "dataset_fingerprint")}
    recalls = {f"onnx_{name}": str(value) for name, value in manifest["metrics"].items() if name.endswith("_r1")}
    return tags | recalls | {"precisions": " ".join(manifest["image"])}


def save(folder: Path, target: Path, model: Model, dim: int) -> None:
    """Write the MLflow model of the bundle in `folder` to `target`, which must not exist.

    dim: the embeddings' length.
    """
    import mlflow.pyfunc
    import pandas as pd

    mlflow.pyfunc.save_model(
        target,
        mlflow_model=model,
        python_model=SERVED,
        artifacts={"bundle": str(folder)},
        code_paths=[str(PACKAGE)],  # clipline is on no package index
        signature=signature(dim),
        input_example=pd.DataFrame({"text": [EXAMPLE]}),
        # Without this MLflow would run the model for seconds to infer them.
        pip_requirements=requirements(),
    )


def signature(dim: int) -> ModelSignature:
    """Input: a column `image` (bytes) or a column `text`. Output: float32 [n, dim]."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs = Schema([ColSpec("binary", "image", required=False), ColSpec("string", "text", required=False)])
    return ModelSignature(inputs=inputs, outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, dim))]))


def requirements() -> list[str]:
    """clipline's base dependencies and onnxruntime (the CPU package), pinned to the versions installed here."""
    from packaging.requirements import Requirement

    declared = [Requirement(line) for line in metadata.requires("clipline") or []]
    base = [entry.name for entry in declared if not (entry.marker and "extra" in str(entry.marker))]
    # From the metadata: importing onnxruntime sends a usage report. Installed here may be onnxruntime-gpu.
    runtime = metadata.version(metadata.packages_distributions()["onnxruntime"][0])
    return [f"{name}=={metadata.version(name)}" for name in base] + [f"onnxruntime=={runtime}"]
