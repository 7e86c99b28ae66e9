"""An open run: what it logs goes to the store through an outbox, which bears with a dead server."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipline.tracking.environment import patience
from clipline.tracking.messages import TrackingError, cause, is_final, say
from clipline.tracking.names import check_metrics, check_params, check_tags
from clipline.tracking.outbox import Outbox
from clipline.tracking.receipt import Receipt
from clipline.tracking.spool import Spool
from clipline.tracking.store import Store, now

# MLflow's limits.
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
MAX_DIGEST = 36
# One point of a curve: name, value, step, timestamp in milliseconds since 1970.
Point = tuple[str, float, int, int]


class Run:
    """A run of MLflow. Open one with `start` or `resume`.

    receipt: what the run is made again from, and under whose id waits what could not be sent; run_id: where another
    run has taken its place, that one's id.
    once: leave out points (name, step, value) that the run's history holds already. For stages that may run
    again: MLflow would append them, and it cannot delete or replace a point.
    """

    def __init__(self, store: Store, receipt: Receipt, *, run_id: str | None = None, once: bool) -> None:
        from mlflow.exceptions import MlflowException

        self.id = run_id or receipt.run_id
        self.receipt = receipt
        self._store = store
        self._once = once
        self._known: dict[str, set[tuple[int, str]]] = {}
        # requests' own errors, from file transfers, are OSErrors.
        self._errors = (MlflowException, OSError)
        self._spool = Spool(receipt)
        self._outbox = Outbox(self._send, self._errors, store.uri, self._spool)

    def log_settings(self) -> None:
        """Log what the receipt holds: params, and the dataset."""
        self.log_params(self.receipt.params)
        if self.receipt.dataset:
            self._outbox.put("dataset", **self.receipt.dataset.model_dump())

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

    def log_bundle(self, path: Path, tags: Mapping[str, Any]) -> None:
        """Log the exported model in the folder `path` as the run's MLflow model `clip`.

        tags: of that model, beside what its manifest says. It takes the place of the run's earlier one, which stays
        only if it is registered.
        """
        _require(path / "manifest.json")
        self._outbox.put("bundle", path=str(path), tags=check_tags(tags))

    def end(self, status: str, when: int) -> None:
        """Set the run's status and end time, in milliseconds since 1970."""
        self._outbox.put("end", status=status, when=when)

    def send_kept(self) -> None:
        """Send what an earlier stage could not; what still cannot be sent goes on waiting on disk."""
        try:
            if count := self._spool.send(self._send_or_refuse):
                say(f"{count} log calls that had waited on disk are sent to {self._store.uri}")
        except self._errors as error:
            say(f"what waits in {self._spool.folder} could not be sent ({cause(error)}): it waits on")

    def close(self) -> bool:
        """Send what still waits. Returns whether all was sent; says what was not, and keeps it on disk."""
        return self._outbox.close()

    def _send_or_refuse(self, kind: str, **arguments: Any) -> None:
        try:
            self._send(kind, **arguments)
        except self._errors as error:
            if not is_final(error):
                raise
            say(f"{self._store.uri} refuses {kind} for good, left out: {cause(error)}")

    def _send(self, kind: str, **arguments: Any) -> None:
        if not self._store.client:
            raise ConnectionError("it did not answer when this stage began")
        getattr(self, f"_send_{kind}")(**arguments)

    def _send_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        for batch in _batches([Param(name, value) for name, value in params.items()], PARAMS_PER_BATCH):
            self._store.client.log_batch(self.id, params=batch)

    def _send_dataset(self, name: str, digest: str, source: str, profile: dict[str, dict[str, int]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        facts = Dataset(name, digest[:MAX_DIGEST], "local", source, profile=json.dumps(profile))
        self._store.client.log_inputs(self.id, [DatasetInput(facts, [InputTag("mlflow.data.context", "training")])])

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

    def _send_bundle(self, path: str, tags: dict[str, str]) -> None:
        from clipline.tracking.clip_model import log_bundle

        self._store.client.get_run(self.id)
        with patience():
            log_bundle(self._store.client, self.id, Path(path), tags)

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
