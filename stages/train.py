"""Train: data/prepared -> models/checkpoint, models/run.json, reports/train.csv."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path

import torch

from clipline import tracking
from clipline.config.base import repository_root
from clipline.config.run import Run, load_run
from clipline.data.prepared import Prepared
from clipline.model.device import pick_device
from clipline.train import checkpoint
from clipline.train.distributed.gather import rank
from clipline.train.distributed.processes import launch, process_group, under_torchrun
from clipline.train.loop import EpochRow, Trainer
from clipline.train.state import CheckpointManager, State
from clipline.utils.files import locked
from clipline.utils.revision import code_fingerprint
from stages.common import HISTORY, RECEIPT, run_stage, say

CHECKPOINT = Path("models/checkpoint")
# Beside `val_...`, the columns of an epoch's row that go into the checkpoint. Speeds do not, nor does the commit, which
# models/run.json has: the same training must give the same hash.
MODEL_COLUMNS = ("step", "epoch", "train_loss")
BUSY = "another process trains this recipe on these data. Fix: wait until it ends"


class History:
    """Writes reports/train.csv, one row per epoch."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._columns: list[str] = []
        path.write_text("")

    def add(self, row: EpochRow) -> None:
        """Append a row, after the header if it is the first one.

        A training that continues on another GPU may gain or lose the column `mfu`: the header stays.
        """
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._columns or list(row), restval="", extrasaction="ignore")
            if not self._columns:
                self._columns = list(row)
                writer.writeheader()
            writer.writerow(row)


def scratch(run: Run, data: Prepared, device: str) -> Path:
    """The folder of this training's state, outside DVC's outs. Its name is a hash of all that affects the result."""
    settings = run.params.train
    # Each process has its own random numbers, so the number of processes must not change.
    identity = [run.recipe.model_dump(mode="json"), data.fingerprint, settings.seed, device, settings.devices]
    # Other code may sum in another order, which changes the last bits.
    identity += [code_fingerprint("model", "train", "losses.py")]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    return repository_root() / ".cache" / "train" / name


def main() -> None:
    """Train the recipe on the prepared data, or continue a training that was killed."""
    run, data = load_run(), Prepared(Path("data/prepared"))
    device = pick_device(run.params.train.device)
    if run.params.train.devices > 1 and not under_torchrun():
        launch("stages.train", run.params.train.devices, device)
    with process_group(device) if under_torchrun() else nullcontext(device) as own_device:
        train(run, data, own_device)


def train(run: Run, data: Prepared, device: torch.device) -> None:
    """Train, in this process or as one of several. The first one saves the state, logs, and writes the outs."""
    folder = scratch(run, data, device.type)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, BUSY) if not rank() else nullcontext():
        checkpoints = CheckpointManager(folder)
        state = checkpoints.newest()
        make = partial(
            Trainer,
            run.recipe,
            data,
            seed=run.params.train.seed,
            device=device,
            cache=repository_root() / ".cache" / "features",
            state=state,
            save_every=run.params.train.save_every,
        )
        if rank():
            make().fit(lambda row, when: None)
            return
        if state:
            epochs, steps = len(state.metadata["rows"]), state.metadata["step"]["number"]
            say(f"going on after epoch {epochs}, step {steps} ({folder})")
        with opened(run, data, device, state) as tracked:
            trainer = make(checkpoints=checkpoints, notes={"receipt": tracked.receipt.model_dump()})
            fit(trainer, run, data, tracked)
        checkpoints.clear()


def opened(run: Run, data: Prepared, device: torch.device, state: State | None) -> AbstractContextManager[tracking.Run]:
    """The MLflow run of this training: a new one, or the one of the training that `state` continues."""
    tags = tracking.base_tags(
        dataset=run.params.data, fingerprint=data.fingerprint, recipe=run.params.recipe, device=device.type
    )
    settings = {
        "seed": run.params.train.seed,
        # Only what the files set: seventy defaults beside it would hide it.
        "data": run.dataset.model_dump(mode="json", exclude_unset=True),
        "recipe": run.recipe.model_dump(mode="json", exclude_unset=True),
    }
    return tracking.start(
        RECEIPT,
        experiment=run.params.tracking.experiment,
        # The time tells runs of one recipe apart in MLflow's lists and legends.
        name=os.environ.get("DVC_EXP_NAME") or f"{run.params.recipe} {datetime.now():%m-%d %H:%M}",
        params=settings,
        tags=tags,
        dataset=tracking.DatasetInfo(
            name=run.params.data,
            digest=data.fingerprint,
            source=str(getattr(run.dataset, "path", None) or run.dataset.kind),
            profile=data.report["splits"],
        ),
        again=state.metadata["notes"]["receipt"] if state else None,
    )


def fit(trainer: Trainer, run: Run, data: Prepared, tracked: tracking.Run) -> None:
    """Train to the end. Each epoch's row goes to `HISTORY` and the run, the best epoch's weights to `CHECKPOINT`."""
    history, old_epochs = History(HISTORY), len(trainer.rows)

    def on_row(row: EpochRow, when: int) -> None:
        history.add(row)
        tracked.log_row(row, when)
        if row["epoch"] > old_epochs:
            say(
                f"epoch {row['epoch']:3.0f}: train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}, "
                f"val R@1 i2t {row['val_i2t_r1']:.1f} t2i {row['val_t2i_r1']:.1f}, "
                f"{row['images_per_second']:,.0f} images/s"
            )

    best = trainer.fit(on_row)
    info = {
        "dataset": run.params.data,
        "dataset_fingerprint": data.fingerprint,
        "recipe": run.params.recipe,
        "seed": run.params.train.seed,
        "best": {name: value for name, value in best.items() if name in MODEL_COLUMNS or name.startswith("val_")},
    }
    checkpoint.save(CHECKPOINT, trainer.model, run.recipe, data.vocab_size, info)
    final = {f"best_{key}": best[key] for key in ("epoch", "val_loss", "val_i2t_r1", "val_t2i_r1")}
    tracked.log_metrics(final | peak_memory(), step=0)
    say(f"best epoch {best['epoch']:.0f}: val R@1 i2t {best['val_i2t_r1']:.1f}, t2i {best['val_t2i_r1']:.1f}")


def peak_memory() -> dict[str, float]:
    """The peak memory of this process in megabytes (10^6 bytes): `peak_memory_mb`, with CUDA `peak_gpu_memory_mb`."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if torch.cuda.is_available():
        peaks["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return peaks


if __name__ == "__main__":
    run_stage(main)
