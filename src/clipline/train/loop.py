"""The training loop. `step` has what one step does, and `state` how the state gets onto the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipline.config.recipe import Recipe
from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.model.clip import build_model
from clipline.retrieval import RECALL_AT
from clipline.train.batches import Batches
from clipline.train.best import Best
from clipline.train.distributed.gather import rank, world_size
from clipline.train.distributed.processes import all_gather_object, all_reduce_sum, broadcast_rank0, rank0_first
from clipline.train.features import cached_features, frozen_towers
from clipline.train.flops import FlopCounter
from clipline.train.optim import learning_rates
from clipline.train.phases import PhaseTimer
from clipline.train.samples import Sampler
from clipline.train.state import CheckpointManager, State, random_state, set_random_state
from clipline.train.step import Step
from clipline.train.validate import validate
from clipline.utils.malloc import keep_freed_memory
from clipline.utils.progress import Bar
from clipline.utils.signals import Interrupt

# Reading a loss synchronises with the GPU: check every N steps.
CHECK_EVERY = 20
# The figures of one epoch.
EpochRow = dict[str, float]
# on_row(row, when): when is in milliseconds since 1970.
OnRow = Callable[[EpochRow, int], None]


class Trainer:
    """Trains one model; after `fit`, `model` has the weights of the best epoch.

    checkpoints: where the state is saved; None saves none. state: of a killed training, which this one resumes.
    save_every: number of steps between saved states; the state is also saved after each epoch and after a signal.
    notes: values that the caller wants to find in the state's metadata.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Prepared,
        *,
        seed: int,
        device: torch.device,
        cache: Path,
        checkpoints: CheckpointManager | None = None,
        state: State | None = None,
        save_every: int = 1000,
        notes: dict[str, Any] | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(seed)
        self.recipe, self.config, self.device = recipe, recipe.train, device
        self.model = build_model(recipe, data.vocab_size).to(device)
        splits = {name: data.split(name) for name in ("train", "val")}
        with rank0_first():
            self.train, self.val = (
                Batches(split, cached_features(self.model, split, data, cache, device), device)
                for split in splits.values()
            )
        config = self.config
        self.sampler = Sampler(splits["train"], config.captions, config.batch_size, seed, config.captions_per_image)
        self.phases = PhaseTimer(device)
        # Before Step, which may let towers compute things twice.
        self.flops = FlopCounter(self.model, splits["train"], device)
        self.step = Step(self.model, recipe, self.train, self.sampler.steps * config.epochs, self.phases, seed)
        self._best_weights = Best(self.step, config.wise_ft)
        self._checkpoints, self._save_every, self._notes = checkpoints, save_every, notes or {}
        # position: steps done in this epoch, whose losses are in _losses.
        self.epoch, self.position = 1, 0
        self._losses: list[Tensor] = []
        self._sampler_state = self.sampler.state  # sampler RNG state at the epoch's start
        self.rows: list[EpochRow] = []
        self._times: list[int] = []
        self._rows_emitted = 0
        self.best: EpochRow = {}
        if rank():
            torch.manual_seed(seed + rank())  # the same weights, but another dropout
        if state:
            self._load(state)

    def fit(self, on_row: OnRow) -> EpochRow:
        """Train to the end, or until early stopping; `on_row` gets each epoch's row once it is durable.

        A resumed training first emits the rows of its earlier epochs, with their own times. Returns the row of the best
        epoch. Raises CliplineError if the loss is not finite; a signal is raised again after the step in which it came,
        once the state is saved.
        """
        self._emit_rows(on_row)
        steps, done = self.config.epochs * self.sampler.steps, (self.epoch - 1) * self.sampler.steps + self.position
        with Interrupt() as interrupt, Bar("training", steps, "steps", done=done) as bar:
            while self.epoch <= self.config.epochs and not self._stops_early():
                self._epoch(bar, interrupt, on_row)
                if self._interrupted(interrupt, now=True):
                    self._poll(wait=True)
                    break
        if interrupt.received:
            raise CliplineError("training was interrupted")  # only if the caller's own handler took the signal
        self._poll(wait=True)
        self.model = self._best_weights.model()
        return self.best

    def _epoch(self, bar: Bar, interrupt: Interrupt, on_row: OnRow) -> None:
        config = self.config
        self.step.begin(self.epoch)
        for batches in (self.train, self.val):
            batches.use(frozen_towers(self.model, self.epoch))
        begun, first = time.perf_counter(), self.position
        for images, captions in self.sampler.epoch(skip=self.position):
            self._losses.append(self.step(images, captions))
            self.flops.add(images, captions)
            self.position += 1
            if len(self._losses) % CHECK_EVERY == 0:
                self._check_finite(self._losses[-CHECK_EVERY:])
            interrupted = self._interrupted(interrupt)
            if interrupted or self.step.number % self._save_every == 0:
                self._save(on_row)
            if interrupted:
                return
            self._poll()
            bar.advance(1, self._progress())
        self._check_finite(self._losses[-CHECK_EVERY:])
        samples = (self.position - first) * min(config.batch_size, self.sampler.samples)
        seconds = time.perf_counter() - begun
        self._finish_epoch({"images_per_second": samples / seconds, **self.flops.row(self.epoch, seconds)})
        self._save(on_row)

    def _finish_epoch(self, speed: EpochRow) -> None:
        """Validate the model as it would be finished now, and keep its weights if it is the best."""
        rates = learning_rates(self.step.optimizer)
        with self.phases("eval"), self._best_weights.as_finished():
            row = {
                "step": self.step.number,
                "epoch": self.epoch,
                "train_loss": all_reduce_sum(torch.stack(self._losses)).mean().item(),
                **broadcast_rank0({} if rank() else self._validate()),
                **rates,
                "temperature": 1 / self.model.temperature().item(),
                **speed,
            }
            row = _rounded(row)
            better = not self.best or self._score(row) > self._score(self.best)
            if better:
                self._best_weights.keep()
        row |= _rounded(self.phases.row())
        self.best = row if better else self.best
        self.step.scheduler.epoch(row["val_loss"])
        self.rows.append(row)
        self._times.append(time.time_ns() // 1_000_000)
        self.epoch, self.position, self._losses = self.epoch + 1, 0, []
        self._sampler_state = self.sampler.state

    def _validate(self) -> EpochRow:
        return validate(self.step.towers, self.val, self.step.objective, self.config.batch_size)

    def _interrupted(self, interrupt: Interrupt, *, now: bool = False) -> bool:
        """Whether a signal came. Several processes must agree by a message, which they send every CHECK_EVERY steps."""
        if world_size() > 1 and not (now or self.step.number % CHECK_EVERY == 0):
            return False
        return any(all_gather_object(interrupt.received is not None))

    def _score(self, row: EpochRow) -> float:
        if self.config.select == "val_loss":
            return -row["val_loss"]
        ks = RECALL_AT if self.config.select == "val_rsum" else (1,)
        return sum(row[f"val_{direction}_r{k}"] for direction in ("i2t", "t2i") for k in ks)

    def _stops_early(self) -> bool:
        patience = self.config.early_stop
        return bool(patience and self.best and self.epoch - 1 - self.best["epoch"] >= patience)

    def _progress(self) -> str:
        text = f"epoch {self.epoch}/{self.config.epochs}"
        if best := self.best:
            text += f", best {best['epoch']}: R@1 i2t {best['val_i2t_r1']:.1f} t2i {best['val_t2i_r1']:.1f}"
        return text

    def _check_finite(self, losses: list[Tensor]) -> None:
        bad = (~torch.isfinite(torch.stack(losses))).nonzero() if losses else losses
        if len(bad):
            step = self.step.number - len(losses) + int(bad[0]) + 1
            raise CliplineError(
                f"the loss is not finite at step {step}. Fix: a lower train.optimizer.lr, train.grad_clip: 1.0, "
                f"or train.normalize: true"
            )

    # ------------------------------------------------------------ state for a restart

    def _save(self, on_row: OnRow) -> None:
        random_states = all_gather_object(random_state())
        losses = all_reduce_sum(torch.stack(self._losses)) if self._losses else None
        if not self._checkpoints:
            self._emit_rows(on_row)
            return
        tensors = self._best_weights.tensors() | self.step.tensors()
        for number, states in enumerate(random_states):
            tensors |= {f"random.{number}.{name}": tensor for name, tensor in states.items()}
        if losses is not None:
            tensors["losses"] = losses
        metadata = {
            "epoch": self.epoch,
            "position": self.position,
            "sampler": self._sampler_state,
            "rows": self.rows,
            "times": self._times,
            "best": self.best,
            "step": self.step.metadata(),
            "notes": self._notes,
        }
        emit = partial(self._emit_rows, on_row, len(self.rows))
        self._checkpoints.save(self.step.number, State(tensors, metadata), emit)

    def _load(self, state: State) -> None:
        tensors, metadata = state.tensors, state.metadata
        self.epoch, self.position, self._sampler_state = (metadata[key] for key in ("epoch", "position", "sampler"))
        self.rows, self._times, self.best = metadata["rows"], metadata["times"], metadata["best"]
        self._best_weights.load(tensors)
        if "losses" in tensors:
            # They are summed over processes, and will be summed again.
            losses = torch.zeros_like(tensors["losses"]) if rank() else tensors["losses"]
            self._losses = list(losses.to(self.device))
        self.sampler.state = self._sampler_state
        self.step.load(tensors, metadata["step"])
        prefix = f"random.{rank()}."
        states = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        set_random_state(states)

    def _poll(self, *, wait: bool = False) -> None:
        if self._checkpoints:
            self._checkpoints.poll(wait=wait)

    def _emit_rows(self, on_row: OnRow, count: int | None = None) -> None:
        """Give those of the first `count` rows (None: all) to on_row that were not emitted yet."""
        for row, when in list(zip(self.rows, self._times, strict=True))[self._rows_emitted : count]:
            on_row(row, when)
            self._rows_emitted += 1


def _rounded(row: EpochRow) -> EpochRow:
    return {
        key: round(value, 6) if isinstance(value, float) and key[:3] != "lr_" else value for key, value in row.items()
    }
