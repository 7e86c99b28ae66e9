"""`start` and `resume`: open a run, and leave it with the right status however the stage ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from clipline.tracking.location import tracking_uri
from clipline.tracking.messages import StoreUnavailableError, TrackingError, reason, say
from clipline.tracking.names import check_name, check_tags, flatten
from clipline.tracking.receipt import DatasetInfo, Receipt
from clipline.tracking.record import kept_records
from clipline.tracking.run import Run
from clipline.tracking.store import Store, now, opened
from clipline.tracking.tags import lock_tag
from clipline.utils.signals import Signals


@contextmanager
def start(
    receipt: Path,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    dataset: DatasetInfo | None = None,
    system_metrics: bool = True,
    again: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Create a run, write its receipt, and leave it FINISHED, FAILED (an exception) or KILLED (a signal).

    params: settings, nested or flat (`names.flatten`). system_metrics: CPU, memory and GPU every 10 s, from a thread.
    again: the receipt of a training that was killed and now goes on, as `Run.receipt` gave it. Its run is continued; if
    that run is gone from the store, a new one replaces it. Metrics that the run already has are not logged again.
    Raises TrackingError, within 15 s, where the store cannot be used. A server that does not answer, then or later,
    stops nothing: what is logged is kept on disk for the next stage.
    """
    earlier = Receipt.model_validate(again) if again else None
    draft = Receipt(
        run_id=earlier.run_id if earlier else uuid.uuid4().hex,
        experiment=experiment,
        name=name,
        started=earlier.started if earlier else now(),
        params=flatten(params),
        tags=check_tags(tags),
        dataset=dataset,
    )
    with Signals() as signals:
        run = _open_run(experiment, draft, _continue if again else _create)

        def end(status: str, why: str) -> None:
            if why:
                run.record.tags["error"] = why
            run.record.end = (status, now())

        with _closing(run, signals, end):
            run.receipt.write(receipt)
            run.record.settings = True
            run.publish()
            with _system_metrics(run, goes_on=bool(again)) if system_metrics and run.store.client else nullcontext():
                yield run


@contextmanager
def resume(receipt: Path, *, experiment: str, stage: str, history: Path | None = None) -> Iterator[Run]:
    """Go on with the run of a receipt; if it is gone, with the one that took its place, made now if need be.

    The run keeps its status and its end: they are the training's, and a later stage that fails takes nothing
    away from that. How the stage ended stands in the tag `stage.<stage>`.
    history: reports/train.csv, for the curves of a run that must be made again.
    Raises UsageError without a receipt, and TrackingError as `start` does.
    """
    tag = check_name(f"stage.{stage}", "tag")
    with Signals() as signals:
        run = _open_run(experiment, Receipt.read(receipt), partial(_take_up, history=history))

        def end(status: str, why: str) -> None:
            run.record.tags[tag] = f"{status}: {why}" if why else status

        with _closing(run, signals, end):
            run.set_tags({tag: "RUNNING", **lock_tag()})
            yield run


def sync() -> list[str]:
    """Publish what is kept on disk, for all runs of this repository. Returns the ids of those runs.

    Raises TrackingError where the store cannot be used, also where it does not answer or breaks off.
    """
    done = []
    for receipt in {record.receipt.run_id: record.receipt for record in kept_records().values()}.values():
        with opened(receipt.experiment) as store:
            run = _take_up(store, receipt)
            run.close()
        done.append(run.id)
    if left := {path.parent for path in kept_records()}:
        raise TrackingError(f"{len(left)} runs are not all sent: {left.pop().parent}. Fix: clipline sync, later")
    return done


def _open_run(experiment: str, receipt: Receipt, prepare: Callable[[Store, Receipt], Run]) -> Run:
    """The run that `prepare` finds or creates in the store; where no server answers, one that keeps what it logs."""
    try:
        with opened(experiment) as store:
            return prepare(store, receipt)
    except StoreUnavailableError as error:
        say(str(error))
        return Run(Store(tracking_uri(), None), receipt)


def _create(store: Store, draft: Receipt) -> Run:
    """A new run; its receipt is the draft with its id."""
    return Run(store, draft.model_copy(update={"run_id": store.create(draft, draft.tags)}))


def _find(store: Store, receipt: Receipt) -> Run:
    """The receipt's run, or the one that took its place, created now if need be."""
    if run := store.find(receipt.run_id):
        return Run(store, receipt, run.info.run_id)
    run_id = store.create(receipt, {**receipt.tags, "receipt": receipt.run_id})
    say(f"the run {receipt.run_id} is not in {store.uri}: {run_id} takes its place")
    return Run(store, receipt, run_id)


def _continue(store: Store, receipt: Receipt) -> Run:
    """The run of a training that was killed and goes on."""
    run = _find(store, receipt)
    run.publish_kept()
    store.client.update_run(run.id, status="RUNNING")
    return run


def _take_up(store: Store, receipt: Receipt, history: Path | None = None) -> Run:
    """The run of a training that is over, completed where it was cut off from its store."""
    run = _find(store, receipt)
    if run.publish_kept() and store.client.get_run(run.id).info.status == "RUNNING":
        if run.id == receipt.run_id:
            say(f"the run {run.id} was left unfinished in {store.uri}: its params and curves are logged again")
        run.complete(history)
    return run


@contextmanager
def _closing(run: Run, signals: Signals, end: Callable[[str, str], None]) -> Iterator[None]:
    """Close the run however the block ends; signals wait meanwhile.

    end: notes the status (FINISHED, FAILED or KILLED) and the error's first line ("" without an error) in the run.
    """
    status, why = "FINISHED", ""
    try:
        yield
    except BaseException as error:
        status, why = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", reason(error)
        raise
    finally:
        signals.hold()
        end("KILLED" if signals.received else status, why)
        run.close()


@contextmanager
def _system_metrics(run: Run, *, goes_on: bool) -> Iterator[None]:
    """CPU, memory and GPU from a thread, into the run."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.id, tracking_uri=run.store.uri, resume_logging=goes_on)
    # Disk and network figures are the whole machine's, and would fill every comparison of runs with noise.
    monitor.monitors = [part for part in monitor.monitors if isinstance(part, CPUMonitor | GPUMonitor)]
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
