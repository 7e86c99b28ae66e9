"""An open run: what it logs is published at once, or kept until the store takes it."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipline.tracking.messages import TrackingError, cause, say
from clipline.tracking.names import check_metrics, check_tags
from clipline.tracking.publish import KnownPoints, publish
from clipline.tracking.receipt import Receipt
from clipline.tracking.record import Point, Record, forget, kept_records
from clipline.tracking.store import Store, now

# After a failure, wait at least this many times as long as the failed attempt took: a store that hangs costs training
# at most 2.5 %.
PAUSE = 40


class Run:
    """A run of MLflow. Open one with `start` or `resume`.

    receipt: what the run is made again from. id: the run's own, which differs from the receipt's where another run has
    taken its place. record: what was logged and is not in the store.
    """

    def __init__(self, store: Store, receipt: Receipt, run_id: str | None = None) -> None:
        self.store, self.receipt, self.id = store, receipt, run_id or receipt.run_id
        self.record = Record(receipt=receipt)
        self._known: KnownPoints = {}
        self._failure, self._retry_at = "", 0.0

    def log_metrics(self, values: Mapping[str, Any], *, step: int) -> None:
        """Log numbers at `step`. Evaluation uses a fixed step, so that it may run again.

        Raises TrackingError for bad names and non-numbers.
        """
        self.record.points += [(name, value, step, now()) for name, value in check_metrics(values).items()]
        self.publish()

    def log_row(self, row: Mapping[str, Any], when: int | None = None) -> None:
        """Log a row of reports/train.csv: `step` and numbers; blank cells are left out.

        when: milliseconds since 1970; now, if None. Raises TrackingError as `log_metrics` does.
        """
        self.record.points += _points(row, now() if when is None else when)
        self.publish()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; a tag that the run has is replaced."""
        self.record.tags |= check_tags(tags)
        self.publish()

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a folder into `folder` of the run's artifacts; one of the same name is replaced.

        MLflow's page that compares runs shows pictures side by side only from the top, where `folder` is None.
        """
        self.record.artifacts.append((_existing(path), folder))
        self.publish()

    def log_bundle(self, path: Path, tags: Mapping[str, Any]) -> None:
        """Log the exported model in the folder `path` as the run's MLflow model `clip`.

        tags: of that model, beside what its manifest says. It takes the place of the run's earlier one, which stays
        only if it is registered.
        """
        self.record.bundle = (_existing(path / "manifest.json").parent, check_tags(tags))
        self.publish()

    def complete(self, history: Path | None) -> None:
        """Log params, dataset, curves and end of a training that was cut off from its store.

        history: reports/train.csv. It holds no times: the run's start plus the row's number stand in. The run ends when
        it began: a duration of zero rather than a wrong one.
        """
        started = self.receipt.started
        if history and history.is_file():
            with history.open(encoding="utf-8", newline="") as file:
                rows = enumerate(csv.DictReader(file), started)
                self.record.points += [point for when, row in rows for point in _points(row, when)]
        self.record.settings, self.record.end = True, ("FINISHED", started)
        self.publish()

    def publish(self) -> None:
        """Bring the store up to date, unless a failure is too recent."""
        began = time.monotonic()
        if began < self._retry_at:
            return
        failure = publish(self.store, self.id, self.record, self._known)
        if failure:
            self._retry_at = time.monotonic() + max(1.0, PAUSE * (time.monotonic() - began))
            if not self._failure:
                say(f"cannot write to {self.store.uri} ({failure}): the work goes on, and what is logged is kept")
        elif self._failure:
            say(f"{self.store.uri} answers again, and has all that was logged meanwhile")
        self._failure = failure

    def publish_kept(self) -> bool:
        """Publish what earlier stages had to keep on disk. Returns whether the store took all of it."""
        records = kept_records(self.receipt.run_id)
        for path, record in records.items():
            if failure := publish(self.store, self.id, record, self._known):
                say(f"{path.parent}: cannot be sent to {self.store.uri} now ({failure})")
                return False
            forget(path)
        if records:
            say(f"what earlier stages had to keep on disk is sent to {self.store.uri}")
        return True

    def close(self) -> None:
        """Publish once more, and keep on disk what the store does not take, with a line that says so."""
        self._retry_at = 0.0
        self.publish()
        if not self._failure:
            return
        try:
            rest = f"it is kept in {self.record.keep()}. The next stage sends it, or: clipline sync"
        except OSError as error:
            rest = f"nor can it be kept on disk ({cause(error)})"
        say(f"what was logged did not reach {self.store.uri} ({self._failure}): {rest}")


def _points(row: Mapping[str, Any], when: int) -> list[Point]:
    filled = {name: value for name, value in row.items() if value not in (None, "")}
    try:
        step = int(filled.pop("step"))
    except (KeyError, ValueError):
        raise TrackingError(f"a row of training history needs a whole number `step`: {dict(row)}") from None
    return [(name, value, step, when) for name, value in check_metrics(filled).items()]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise TrackingError(f"{path}: no such file to log")
    return path
