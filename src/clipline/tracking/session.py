"""`start` and `resume`: open a run, and leave it with the right status however the stage ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipline.tracking.messages import reason, say
from clipline.tracking.names import check_name, check_params, check_tags
from clipline.tracking.receipt import Receipt
from clipline.tracking.run import Run
from clipline.tracking.signals import Signals
from clipline.tracking.store import Store, now, opened

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
    system_metrics: bool = True,
    again: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Create a run, write its receipt, and leave it FINISHED, FAILED (an exception) or KILLED (a signal).

    params: flat, see `flatten`. system_metrics: CPU, memory and GPU every 10 s, from a thread.
    again: the receipt of a training that was killed and now goes on, as `Run.receipt` gave it: its run is taken up
    again, or one takes its place; what that has of the metrics already is not logged twice.
    Raises TrackingError, within 15 s, where the store cannot be used; one that fails later stops nothing.
    """
    kept_params, kept_tags = check_params(params), check_tags(tags)
    with Signals() as signals:
        with opened(experiment) as store:
            run, begun = _begin(store, name, kept_tags, Receipt.model_validate(again) if again else None)
        monitor = None
        try:
            kept = Receipt(run_id=run.id, name=name, started=begun, params=kept_params, tags=kept_tags)
            kept.write(receipt)
            run.receipt = kept.model_dump()
            run.log_params(kept_params)
            monitor = _watch(store, run.id, goes_on=bool(again)) if system_metrics else None
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
        with opened(experiment) as store:
            run = _take_up(store, kept, history)
        try:
            run.set_tags({tag: "RUNNING"})
            yield run
        except BaseException as error:
            signals.hold()
            run.set_tags({tag: f"{_status(error, signals)}: {reason(error)}"})
            run.close()
            raise
        signals.hold()
        run.set_tags({tag: "KILLED" if signals.received else "FINISHED"})
        run.close()


def _begin(store: Store, name: str, tags: dict[str, str], again: Receipt | None) -> tuple[Run, int]:
    """A new run, or the one of a training that goes on; and when it began."""
    if again is None:
        begun = now()
        return Run(store, store.create(name, tags, begun), once=False), begun
    if found := store.find(again):
        store.client.update_run(found.info.run_id, status="RUNNING")
        return Run(store, found.info.run_id, once=True), again.started
    run = Run(store, store.create(name, {**tags, "receipt": again.run_id}, again.started), once=True)
    say(f"the run {again.run_id} is not in {store.uri}: {run.id} takes its place")
    return run, again.started


def _take_up(store: Store, receipt: Receipt, history: Path | None) -> Run:
    found = store.find(receipt)
    if found and found.info.status != "RUNNING":
        return Run(store, found.info.run_id, once=True)
    if found:
        # Training is over, so a run that is still RUNNING was cut off from its store: complete it.
        run = Run(store, found.info.run_id, once=True)
        say(f"the run {run.id} was left unfinished in {store.uri}: its params and curves are logged again")
    else:
        tags = {**receipt.tags, "receipt": receipt.run_id}
        run = Run(store, store.create(receipt.name, tags, receipt.started), once=True)
        say(f"the run {receipt.run_id} is not in {store.uri}: {run.id} takes its place")
    run.log_params(receipt.params)
    if history and history.is_file():
        run.log_history(history, receipt.started)
    run.end("FINISHED", receipt.started)  # a duration of zero rather than a wrong one
    return run


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
