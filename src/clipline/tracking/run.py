"""An open run: what it logs goes to the store through an outbox, which bears with a dead server."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipline.tracking.messages import TrackingError
from clipline.tracking.names import check_metrics, check_name, check_params, check_tags
from clipline.tracking.outbox import Outbox
from clipline.tracking.store import Store, now, patience

if TYPE_CHECKING:
    import numpy as np

# MLflow's limits.
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
# One point of a curve: name, value, step, timestamp in milliseconds since 1970.
Point = tuple[str, float, int, int]


class Run:
    """A run of MLflow. Open one with `start` or `resume`.

    receipt: what `start` takes to go on with this run after a kill; it sets it.
    once: leave out points (name, step, value) that the run's history holds already. For stages that may run
    again: MLflow would append them, and it cannot delete or replace a point.
    """

    def __init__(self, store: Store, run_id: str, *, once: bool) -> None:
        from mlflow.exceptions import MlflowException

        self.id = run_id
        self.receipt: dict[str, Any] = {}
        self._store = store
        self._once = once
        self._known: dict[str, set[tuple[int, str]]] = {}
        # requests' own errors, from file transfers, are OSErrors.
        self._outbox = Outbox(self._send, (MlflowException, OSError), store.uri)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log flat params. The same may be logged again; MLflow refuses to change one."""
        self._outbox.put("params", params=check_params(params))

    def log_metrics(self, values: Mapping[str, Any], *, step: int, timestamp: int | None = None) -> None:
        """Log numbers at `step`, in one request. Evaluation uses a fixed step, so that it may run again.

        timestamp: milliseconds since 1970; now, if None. Raises TrackingError for bad names and non-numbers.
        """
        when = now() if timestamp is None else timestamp
        self._outbox.put("metrics", points=[(k, v, step, when) for k, v in check_metrics(values).items()])

    def log_row(self, row: Mapping[str, Any], when: int | None = None) -> None:
        """Log a row of reports/train.csv: `step` and numbers; blank cells are left out. when: as `log_metrics`."""
        self._outbox.put("metrics", points=_points(row, now() if when is None else when))

    def log_history(self, path: Path, started: int) -> None:
        """Log all of reports/train.csv. It holds no times: `started` plus the row's number stand in."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        points = [point for i, row in enumerate(rows) for point in _points(row, started + i)]
        self._outbox.put("metrics", points=points)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; a tag that the run has is replaced."""
        self._outbox.put("tags", tags=check_tags(tags))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a folder into `folder` of the run's artifacts; one of the same name is replaced.

        MLflow's page that compares runs shows pictures side by side only from the top, where `folder` is None.
        """
        _require(path)
        self._outbox.put("artifact", path=str(path), folder=folder)

    def log_onnx(self, path: Path, name: str, example: Mapping[str, np.ndarray] | None = None) -> None:
        """Log one ONNX graph as the MLflow model `name`, with the signature that the graph itself declares.

        It takes the place of the run's earlier model of that name. example: a small input, by input name.
        """
        _require(path)
        self._outbox.put("onnx", path=str(path), name=check_name(name, "model"), example=dict(example or {}))

    def end(self, status: str, when: int) -> None:
        """Set the run's status and end time, in milliseconds since 1970."""
        self._outbox.put("end", status=status, when=when)

    def close(self) -> None:
        """Send what still waits, and say what could not be sent."""
        self._outbox.close()

    def _send(self, kind: str, **arguments: Any) -> None:
        getattr(self, f"_send_{kind}")(**arguments)

    def _send_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        for batch in _batches([Param(name, value) for name, value in params.items()], PARAMS_PER_BATCH):
            self._store.client.log_batch(self.id, params=batch)

    def _send_metrics(self, points: list[Point]) -> None:
        from mlflow.entities import Metric

        for batch in _batches(self._new(points) if self._once else points, METRICS_PER_BATCH):
            metrics = [Metric(name, value, when, step) for name, value, step, when in batch]
            self._store.client.log_batch(self.id, metrics=metrics)
            for name, value, step, _ in batch if self._once else ():
                self._known[name].add((step, repr(value)))

    def _new(self, points: list[Point]) -> list[Point]:
        """The points that the run lacks. Compared as text: NaN is unlike itself."""
        by_name = defaultdict(list)
        for point in points:
            by_name[point[0]].append(point)
        for name in by_name.keys() - self._known.keys():
            history = self._store.client.get_metric_history(self.id, name)
            self._known[name] = {(metric.step, repr(metric.value)) for metric in history}
        return [p for name in by_name for p in by_name[name] if (p[2], repr(p[1])) not in self._known[name]]

    def _send_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._store.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _send_artifact(self, path: str, folder: str | None) -> None:
        self._store.client.get_run(self.id)  # a dead server fails here, before the long timeout
        with patience():
            self._store.client.log_artifact(self.id, path, folder)

    def _send_onnx(self, path: str, name: str, example: dict[str, np.ndarray]) -> None:
        from clipline.tracking.onnx_model import log_onnx

        self._store.client.get_run(self.id)
        with patience():
            log_onnx(self._store.client, self.id, Path(path), name, example)

    def _send_end(self, status: str, when: int) -> None:
        self._store.client.set_terminated(self.id, status, when)


def _points(row: Mapping[str, Any], when: int) -> list[Point]:
    filled = {name: value for name, value in row.items() if value not in (None, "")}
    try:
        step = int(filled.pop("step"))
    except (KeyError, ValueError):
        raise TrackingError(f"a row of training history needs a whole number `step`: {dict(row)}") from None
    return [(name, value, step, when) for name, value in check_metrics(filled).items()]


def _batches(items: list, size: int) -> Iterator[list]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _require(path: Path) -> None:
    if not path.exists():
        raise TrackingError(f"{path}: no such file to log")
