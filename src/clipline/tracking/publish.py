"""`publish`: bring a run of the store to what a record describes, again and again without harm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from clipline.tracking.clip_model import log_bundle
from clipline.tracking.environment import long_timeouts
from clipline.tracking.messages import cause, is_final, say
from clipline.tracking.record import Point, Record
from clipline.tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_DIGEST = 36  # MLflow's limit
# By name of a metric: the latest value that the run has at each step, as text, because NaN differs from NaN.
KnownPoints = dict[str, dict[int, str]]
# A part of a record: its name for messages, and the call that sends it.
Part = tuple[str, Callable[[], object]]


def publish(store: Store, run_id: str, record: Record, known: KnownPoints) -> str:
    """Bring the run to what `record` describes, and empty the record as the store takes its parts.

    After a failure the same record may be published again: params, tags and artifacts replace themselves, the store
    ignores an exact repeat of a point, and points that differ only in their time from one that the run has are left
    out: MLflow would append them, and it cannot delete or replace a point.

    known: what an earlier call learned of the run; it is filled here. What the store refuses for good is left out, with
    a line that says so. Returns why the store does not take the rest now; an empty text where it has everything.
    """
    from mlflow.exceptions import MlflowException

    if not store.client:
        return "it did not answer when this stage began"
    for name, send in _parts(store.client, run_id, record, known):
        try:
            send()
        except (MlflowException, OSError) as error:  # requests' errors are OSErrors
            if not is_final(error):
                return cause(error)
            say(f"{store.uri} refuses {name} for good, left out: {cause(error)}")
    return ""


def _parts(client: MlflowClient, run_id: str, record: Record, known: KnownPoints) -> Iterator[Part]:
    """The parts of the record, in the order to send them. A part leaves the record when the next one is asked for."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    if record.settings:
        yield (
            "params",
            partial(client.log_batch, run_id, params=[Param(*item) for item in record.receipt.params.items()]),
        )
        if data := record.receipt.dataset:
            profile = json.dumps(data.profile)
            dataset = Dataset(data.name, data.digest[:MAX_DIGEST], "local", data.source, profile=profile)
            inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
            yield "dataset", partial(client.log_inputs, run_id, inputs)
        record.settings = False
    if record.points:
        yield "metrics", partial(_log_points, client, run_id, record.points, known)
        record.points = []
    while record.artifacts:
        path, folder = record.artifacts[0]
        yield str(path), partial(_upload, client, run_id, client.log_artifact, run_id, str(path), folder)
        del record.artifacts[0]
    if record.bundle:
        path, tags = record.bundle
        yield str(path), partial(_upload, client, run_id, log_bundle, client, run_id, path, tags)
        record.bundle = None
    if record.tags:
        yield "tags", partial(client.log_batch, run_id, tags=[RunTag(*item) for item in record.tags.items()])
        record.tags = {}
    if record.end:
        yield "the run's end", partial(client.set_terminated, run_id, *record.end)
        record.end = None


def _log_points(client: MlflowClient, run_id: str, points: list[Point], known: KnownPoints) -> None:
    """Log those that the run lacks."""
    from mlflow.entities import Metric

    if names := {name for name, *_ in points} - known.keys():
        logged = client.get_run(run_id).data.metrics
        for name in names:
            history = client.get_metric_history(run_id, name) if name in logged else []
            history = sorted(history, key=lambda metric: metric.timestamp)
            known[name] = {metric.step: repr(metric.value) for metric in history}
    new = [point for point in points if known[point[0]].get(point[2]) != repr(point[1])]
    client.log_batch(run_id, [Metric(name, value, when, step) for name, value, step, when in new])
    for name, value, step, _ in new:
        known[name][step] = repr(value)


def _upload(client: MlflowClient, run_id: str, send: Callable[..., object], *arguments: Any) -> None:
    client.get_run(run_id)  # a server that is down fails here, before the long timeout
    with long_timeouts():
        send(*arguments)
