"""`start` and `resume`: open a run, and leave it with the right status however the stage ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipline.tracking.messages import StoreUnavailableError, TrackingError, reason, say
from clipline.tracking.names import check_name, check_params, check_tags
from clipline.tracking.place import tracking_uri
from clipline.tracking.receipt import DatasetFacts, Receipt
from clipline.tracking.run import Run
from clipline.tracking.spool import spools
from clipline.tracking.store import Store, now, opened
from clipline.tracking.tags import lock_tag
from clipline.utils.signals import Signals

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


@contextmanager
def start(
    receipt: Path,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    dataset: DatasetFacts | None = None,
    system_metrics: bool = True,
    again: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Create a run, write its receipt, and leave it FINISHED, FAILED (an exception) or KILLED (a signal).

    params: flat, see `flatten`. system_metrics: CPU, memory and GPU every 10 s, from a thread.
    again: the receipt of a training that was killed and now goes on, as `Run.receipt` gave it: its run is taken up
    again, or one takes its place; what that has of the metrics already is not logged twice.
    Raises TrackingError, within 15 s, where the store cannot be used; a server that does not answer, then or later,
    stops nothing: what is logged waits on disk for the next stage.
    """
    earlier = Receipt.model_validate(again) if again else None
    draft = Receipt(
        run_id=earlier.run_id if earlier else uuid.uuid4().hex,
        experiment=experiment,
        name=name,
        started=earlier.started if earlier else now(),
        params=check_params(params),
        tags=check_tags(tags),
        dataset=dataset,
    )
    with Signals() as signals:
        store, run = _reach(experiment, partial(_begin, draft=draft, goes_on=bool(again)))
        monitor = None
        try:
            run.receipt.write(receipt)
            run.log_settings()
            if system_metrics and store.client:
                monitor = _watch(store, run.id, goes_on=bool(again))
            yield run
        except BaseException as error:
            signals.hold()
            run.set_tags({"error": reason(error)})
            _finish(run, monitor, _status(error, signals))
            raise
        signals.hold()
        _finish(run, monitor, "KILLED" if signals.received else "FINISHED")


@contextmanager
def resume(receipt: Path, *, experiment: str, stage: str, history: Path | None = None) -> Iterator[Run]:
    """Go on with the run of a receipt; if it is gone, with the one that took its place, made now if need be.

    The run keeps its status and its end: they are the training's, and a later stage that fails takes nothing
    away from that. How the stage ended stands in the tag `stage.<stage>`.
    history: reports/train.csv, for the curves of a run that must be made again.
    Raises UsageError without a receipt, and TrackingError as `start` does.
    """
    kept = Receipt.read(receipt)
    tag = check_name(f"stage.{stage}", "tag")
    with Signals() as signals:
        _, run = _reach(experiment, partial(_take_up, receipt=kept, history=history))
        try:
            run.set_tags({tag: "RUNNING", **lock_tag()})
            yield run
        except BaseException as error:
            signals.hold()
            run.set_tags({tag: f"{_status(error, signals)}: {reason(error)}"})
            run.close()
            raise
        signals.hold()
        run.set_tags({tag: "KILLED" if signals.received else "FINISHED"})
        run.close()


def sync() -> list[str]:
    """Send what waits on disk to the store, for all runs of this repository. Returns the ids of those runs.

    Raises TrackingError where the store cannot be used, also where it does not answer or breaks off.
    """
    done = []
    for spool in spools():
        with opened(spool.receipt.experiment) as store:
            run = _take_up(store, spool.receipt, None)
            run.close()
        done.append(run.id)
    if left := spools():
        raise TrackingError(f"{len(left)} runs still wait in {left[0].folder.parent}. Fix: clipline sync, later")
    return done


def _reach(experiment: str, work: Callable[[Store], Run]) -> tuple[Store, Run]:
    """The store and what `work` makes of it; where no server answers, of a store that takes nothing."""
    try:
        with opened(experiment) as store:
            return store, work(store)
    except StoreUnavailableError as error:
        say(str(error))
        store = Store(tracking_uri(), None)
        return store, work(store)


def _begin(store: Store, draft: Receipt, *, goes_on: bool) -> Run:
    """A new run, or the one of a training that goes on; its receipt is the draft with its id."""
    if not store.client:
        return Run(store, draft, once=goes_on)
    if not goes_on:
        made = store.create(draft.name, draft.tags, draft.started)
        return Run(store, draft.model_copy(update={"run_id": made}), once=False)
    if found := store.find(draft):
        store.client.update_run(found.info.run_id, status="RUNNING")
        run = Run(store, draft, run_id=found.info.run_id, once=True)
    else:
        run = _replaced(store, draft)
    run.send_kept()
    return run


def _take_up(store: Store, receipt: Receipt, history: Path | None) -> Run:
    if not store.client:
        return Run(store, receipt, once=True)
    found = store.find(receipt)
    if found:
        run = Run(store, receipt, run_id=found.info.run_id, once=True)
    else:
        run = _replaced(store, receipt)
    # Training is over, so a run that is still RUNNING was cut off from its store: complete it.
    if not found or found.info.status == "RUNNING":
        if found:
            say(f"the run {run.id} was left unfinished in {store.uri}: its params and curves are logged again")
        run.log_settings()
        if history and history.is_file():
            run.log_history(history, receipt.started)
        run.end("FINISHED", receipt.started)  # a duration of zero rather than a wrong one
    run.send_kept()
    return run


def _replaced(store: Store, receipt: Receipt) -> Run:
    """A new run in the place of one that the store does not have."""
    made = store.create(receipt.name, {**receipt.tags, "receipt": receipt.run_id}, receipt.started)
    say(f"the run {receipt.run_id} is not in {store.uri}: {made} takes its place")
    return Run(store, receipt, run_id=made, once=True)


def _status(error: BaseException, signals: Signals) -> str:
    return "KILLED" if signals.received or isinstance(error, KeyboardInterrupt) else "FAILED"


def _finish(run: Run, monitor: SystemMetricsMonitor | None, status: str) -> None:
    if monitor:
        monitor.finish()
    run.end(status, now())
    run.close()


def _watch(store: Store, run_id: str, *, goes_on: bool) -> SystemMetricsMonitor:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, tracking_uri=store.uri, resume_logging=goes_on)
    # Disk and network figures are the whole machine's, and would fill every comparison of runs with noise.
    monitor.monitors = [one for one in monitor.monitors if isinstance(one, CPUMonitor | GPUMonitor)]
    monitor.start()
    return monitor
