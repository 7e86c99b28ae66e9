"""What the stages share: their output, their exit codes and error messages, and the MLflow run that they continue."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from clipline import tracking
from clipline.config.run import Run
from clipline.errors import escape
from clipline.utils import entry
from clipline.utils.files import locked

RECEIPT, HISTORY = Path("models/run.json"), Path("reports/train.csv")
BUSY = "another stage runs here, perhaps of a `dvc` that was killed. Fix: wait until it ends, then run again"


def say(text: str) -> None:
    """Print lines of the stage's output."""
    print("\n".join(map(escape, text.split("\n"))), flush=True)  # noqa: T201


def resume_run(run: Run, stage: str) -> AbstractContextManager[tracking.Run]:
    """The MLflow run of the trained model, for a stage after training to log into."""
    return tracking.resume(RECEIPT, experiment=run.params.tracking.experiment, stage=stage, history=HISTORY)


def run_stage(main: Callable[[], None]) -> None:
    """Call `main` and exit. An error that the user can fix is printed without a traceback, and has its exit code."""
    # A hub that cannot be reached must fail within seconds: a pipeline may run unattended.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")

    def alone() -> None:
        with _alone():
            main()

    entry.run(
        alone,
        f"\n{Path(sys.argv[0]).stem}: error: {{}}\n",
        missing="dvc repro, which runs the stages before",
        memory="end other programs, or lower train.batch_size in the recipe, or the stage's batch_size in params.yaml; "
        "then run again: what was finished is kept",
    )


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of the working folder: a stage goes on when the `dvc` that started it is killed.

    Of several processes that train one model, the first one holds the lock. Raises CliplineError where another stage
    holds it.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    with locked(Path.cwd(), BUSY):
        yield
