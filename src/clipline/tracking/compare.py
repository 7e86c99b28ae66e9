"""Runs side by side: the settings that differ between them, and their results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from clipline.errors import UsageError, address
from clipline.tracking.location import SERVERS, tracking_uri
from clipline.tracking.store import Store, reading

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

# The tags that say what a run was made from; the others only tell when and where.
TAGS = ("recipe", "dataset", "dataset_fingerprint", "git_revision", "git_dirty", "device")
# The address of `make ui`.
UI = "http://127.0.0.1:5000"
# Prefixes of the metrics that are results. Only for recalls is it certain that higher is better.
METRICS = ("best_val_", "test_", "onnx_", "images_per_second", "peak_")
RECALL = re.compile(r"_r\d+$")
RUN_ID = re.compile(r"[A-Za-z0-9-]*")


@dataclass(frozen=True)
class LoggedRun:
    """A run as the store holds it.

    experiment: the experiment's id. settings: params and tags. metrics: the last value of each.
    """

    id: str
    experiment: str
    name: str
    started: datetime
    status: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """One setting or metric of several runs.

    values: one for each run, None where the run does not have it. best: indices of the runs with the best value.
    """

    name: str
    values: Sequence[str | float | None]
    best: Sequence[int] = ()


def find_runs(experiment: str, ids: Sequence[str] = (), *, count: int = 5) -> list[LoggedRun]:
    """The runs whose ids begin with `ids`, in that order; without ids the last `count` runs, the latest first.

    Raises UsageError where an id fits no run or several, or where there is no run or no store at all, and CliplineError
    where the store does not answer. Nothing is created.
    """
    with reading(experiment) as store:
        if ids:
            return [_logged_run(_find(store, prefix)) for prefix in ids]
        runs = store.search(max_results=count, order_by=["start_time DESC"])
        if not runs:
            raise UsageError(f"{store.uri}: no run in the experiment {experiment} yet. Fix: dvc repro")
        return [_logged_run(run) for run in runs]


def compare(runs: Sequence[LoggedRun]) -> list[Comparison]:
    """The settings that differ between `runs`, by name, then the metrics that any run has. Of one run, all settings."""
    return _settings(runs) + _metrics(runs)


def as_json(runs: Sequence[LoggedRun]) -> list[dict[str, Any]]:
    """`runs` for JSON: id, name, started (ISO 8601), status, and those settings and metrics that `compare` returns."""
    settings, metrics = _settings(runs), _metrics(runs)
    return [
        {
            "id": run.id,
            "name": run.name,
            "started": run.started.isoformat(),
            "status": run.status,
            "settings": {line.name: line.values[index] for line in settings},
            "metrics": {line.name: line.values[index] for line in metrics},
        }
        for index, run in enumerate(runs)
    ]


def comparison_url(runs: Sequence[LoggedRun]) -> str:
    """The address of MLflow's page that compares `runs`: on the server in use, or on `make ui`'s."""
    server = address(tracking_uri()) if tracking_uri().startswith(SERVERS) else UI
    listed = json.dumps([run.id for run in runs], separators=(",", ":"))
    return f'{server.rstrip("/")}/#/compare-runs?runs={listed}&experiments=["{runs[0].experiment}"]'


def _settings(runs: Sequence[LoggedRun]) -> list[Comparison]:
    names = sorted({name for run in runs for name in run.settings})
    rows = [Comparison(name, [run.settings.get(name) for run in runs]) for name in names]
    return [line for line in rows if len(runs) == 1 or len(set(line.values)) > 1]


def _metrics(runs: Sequence[LoggedRun]) -> list[Comparison]:
    names = sorted({name for run in runs for name in run.metrics if name.startswith(METRICS)}, key=_order)
    rows = []
    for name in names:
        values = [run.metrics.get(name) for run in runs]
        top = max(value for value in values if value is not None)
        best = [index for index, value in enumerate(values) if value == top] if RECALL.search(name) else []
        rows.append(Comparison(name, values, best if len(best) < len(runs) else ()))
    return rows


def _order(name: str) -> tuple[int, str]:
    return next(index for index, start in enumerate(METRICS) if name.startswith(start)), name


def _find(store: Store, prefix: str) -> MlflowRun:
    """The one run of the experiment whose id begins with `prefix`."""
    runs = store.search(f"attributes.run_id LIKE '{prefix}%'") if RUN_ID.fullmatch(prefix) else []
    if len(runs) != 1:
        what = f"{len(runs)} runs begin with {prefix}: write more of it" if runs else f"no run begins with {prefix}"
        raise UsageError(f"{store.uri}: {what} (clipline runs lists them)")
    return runs[0]


def _logged_run(run: MlflowRun) -> LoggedRun:
    info, tags = run.info, {name: run.data.tags[name] for name in TAGS if name in run.data.tags}
    started = datetime.fromtimestamp(info.start_time / 1000).astimezone()
    settings = {**run.data.params, **tags}
    return LoggedRun(info.run_id, info.experiment_id, info.run_name, started, info.status, settings, run.data.metrics)
