"""Exported models in runs of a real store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clipline import tracking
from tests.tracking.conftest import empty_repo, migrated, repo, server  # noqa: F401

EXPERIMENT = "clipline"
RECEIPT = Path("models/run.json")


@pytest.fixture
def measured(make_bundle, tmp_path) -> Callable[..., Path]:
    """measured(50.0, 40.0) -> folder of a bundle whose manifest says that it reaches these R@1, i2t and t2i."""

    def make(i2t: float, t2i: float) -> Path:
        folder = make_bundle(tmp_path / f"bundles/{len(list(tmp_path.glob('bundles/*')))}/onnx")
        path = folder / "manifest.json"
        names = {"dataset": "photos", "dataset_fingerprint": "f00d", "recipe": "tiny"}
        metrics = {"i2t_r1": i2t, "i2t_r5": 99.0, "t2i_r1": t2i}
        path.write_text(json.dumps(json.loads(path.read_text()) | names | {"metrics": metrics}))
        return folder

    return make


@pytest.fixture
def trained(repo, measured) -> Callable[..., str]:  # noqa: F811
    """trained(50.0, 40.0) -> id of a run with such a model, as train and export leave it; models/run.json is its."""

    def make(i2t: float, t2i: float, *, test: str = "7e57", gates: str | None = "passed") -> str:
        tags = {"recipe": "tiny", "git_revision": "c0ffee"}
        with tracking.start(
            RECEIPT, experiment=EXPERIMENT, name="tiny", params={}, tags=tags, system_metrics=False
        ) as run:
            pass
        export(measured(i2t, t2i), test=test, gates=gates)
        return run.id

    return make


def export(bundle: Path, *, test: str = "7e57", gates: str | None = "passed") -> None:
    """What the export stage logs into the run of models/run.json."""
    with tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="export") as run:
        run.log_bundle(bundle, tags={"test_fingerprint": test})
        if gates:
            run.set_tags({"gates": gates})
