"""The training loop. What a step does stands in `step.py`, and in `state.py` how its state gets onto the disk."""

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
from clipline.train.distributed.processes import all_values, first_alone, of_first, total
from clipline.train.features import cached_features, resting
from clipline.train.flops import FlopCounter
from clipline.train.phases import PhaseTimer
from clipline.train.samples import Sampler
from clipline.train.state import CheckpointManager, State, random_state, set_random_state
from clipline.train.step import Step
from clipline.train.validate import Row, validate
from clipline.utils.malloc import keep_freed_memory
from clipline.utils.progress import Bar
from clipline.utils.signals import Interrupt

# Each look at a loss waits for the GPU: look at this many at once.
CHECK_EVERY = 20
# on_row(row, when): when is in milliseconds since 1970.
OnRow = Callable[[Row, int], None]


class Trainer:
    """Trains one model; `fit` gives the best epoch's weights back in `model`.

    keeper: where the state is kept; None keeps none. state: of a training that was killed, which this one goes on with.
    save_every: steps; the state is saved after each epoch too, and when a signal asks for an end.
    notes: what the caller wants to find in the state again.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Prepared,
        *,
        seed: int,
        device: torch.device,
        cache: Path,
        keeper: CheckpointManager | None = None,
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
        with first_alone():
            self.train, self.val = (
                Batches(split, cached_features(self.model, split, data, cache, device), device)
                for split in splits.values()
            )
        config = self.config
        self.sampler = Sampler(splits["train"], config.captions, config.batch_size, seed, config.captions_per_image)
        self.phases = PhaseTimer(device)
        # Before Step, which may let towers compute things twice.
        self.flops = FlopCounter(self.model, splits["train"], device)
        steps = self.sampler.steps * config.epochs
        self.step = Step(self.model, recipe, self.train, steps, self.phases, seed)
        self._weights = Best(self.step, config.wise_ft)
        self._keeper, self._save_every, self._notes = keeper, save_every, notes or {}
        # position: steps done in this epoch, whose losses these are; drawn: what it was drawn from.
        self.epoch, self.position, self._drawn = 1, 0, self.sampler.state
        self._losses: list[Tensor] = []
        self.rows: list[Row] = []
        self._times: list[int] = []
        self._told = 0
        self.best: Row = {}
        if rank():
            torch.manual_seed(seed + rank())  # the same weights, but another dropout
        if state:
            self._load(state)

    def fit(self, on_row: OnRow) -> Row:
        """Train to the end, or until early stopping; `on_row` gets each epoch's row once it is durable.

        A training that goes on gives the rows of its earlier epochs first, with their own times. Returns the best
        epoch's row, whose weights `model` then holds. Raises CliplineError where the loss is not finite; a signal is
        raised again once the step is done and its state is saved.
        """
        self._tell(on_row)
        steps, done = self.config.epochs * self.sampler.steps, (self.epoch - 1) * self.sampler.steps + self.position
        with Interrupt() as interrupt, Bar("training", steps, "steps", done=done) as bar:
            while self.epoch <= self.config.epochs and not self._early():
                self._epoch(bar, interrupt, on_row)
                if self._asked(interrupt, now=True):
                    self._settle(wait=True)
                    break
        if interrupt.received:
            raise CliplineError("training was interrupted")  # only where a handler of the caller's took the signal
        if self._keeper:
            self._keeper.poll(wait=True)
        self.model = self._weights.model()
        return self.best

    def _epoch(self, bar: Bar, interrupt: Interrupt, on_row: OnRow) -> None:
        config = self.config
        self.step.begin(self.epoch)
        for batches in (self.train, self.val):
            batches.use(resting(self.model, self.epoch))
        begun, first = time.perf_counter(), self.position
        for images, captions in self.sampler.epoch(skip=self.position):
            self._losses.append(self.step(images, captions))
            self.flops.add(images, captions)
            self.position += 1
            if len(self._losses) % CHECK_EVERY == 0:
                self._check_finite(self._losses[-CHECK_EVERY:])
            asked = self._asked(interrupt)
            if asked or self.step.number % self._save_every == 0:
                self._save(on_row)
            if asked:
                return
            self._settle()
            bar.advance(1, self._words())
        self._check_finite(self._losses[-CHECK_EVERY:])
        samples = (self.position - first) * min(config.batch_size, self.sampler.samples)
        seconds = time.perf_counter() - begun
        self._finish_epoch({"images_per_second": samples / seconds, **self.flops.row(self.epoch, seconds)})
        self._save(on_row)

    def _finish_epoch(self, speed: Row) -> None:
        """Validate as it would be shipped, and see whether it is the best."""
        rates = self.step.learning_rates()
        with self.phases("eval"), self._weights.as_shipped():
            row = {
                "step": self.step.number,
                "epoch": self.epoch,
                "train_loss": total(torch.stack(self._losses)).mean().item(),
                **of_first({} if rank() else self._validate()),
                **rates,
                "temperature": 1 / self.model.temperature().item(),
                **speed,
            }
            row = _rounded(row)
            better = not self.best or self._score(row) > self._score(self.best)
            if better:
                self._weights.keep()
        row |= _rounded(self.phases.row())
        self.best = row if better else self.best
        self.step.scheduler.epoch(row["val_loss"])
        self.rows.append(row)
        self._times.append(time.time_ns() // 1_000_000)
        self.epoch, self.position, self._losses = self.epoch + 1, 0, []
        self._drawn = self.sampler.state

    def _validate(self) -> Row:
        return validate(self.step.towers, self.val, self.step.objective, self.config.batch_size)

    def _asked(self, interrupt: Interrupt, *, now: bool = False) -> bool:
        """Whether to stop. Several processes must agree, which takes a message: they look now and then."""
        if world_size() > 1 and not (now or self.step.number % CHECK_EVERY == 0):
            return False
        return any(all_values(interrupt.received is not None))

    def _score(self, row: Row) -> float:
        if self.config.select == "val_loss":
            return -row["val_loss"]
        counted = RECALL_AT if self.config.select == "val_rsum" else (1,)
        return sum(row[f"val_{way}_r{k}"] for way in ("i2t", "t2i") for k in counted)

    def _early(self) -> bool:
        patience = self.config.early_stop
        return bool(patience and self.best and self.epoch - 1 - self.best["epoch"] >= patience)

    def _words(self) -> str:
        words = f"epoch {self.epoch}/{self.config.epochs}"
        if best := self.best:
            words += f", best {best['epoch']}: R@1 i2t {best['val_i2t_r1']:.1f} t2i {best['val_t2i_r1']:.1f}"
        return words

    def _check_finite(self, losses: list[Tensor]) -> None:
        bad = (~torch.isfinite(torch.stack(losses))).nonzero() if losses else losses
        if len(bad):
            step = self.step.number - len(losses) + int(bad[0]) + 1
            raise CliplineError(
                f"the loss is not finite at step {step}. Fix: a lower train.optimizer.lr, train.grad_clip: 1.0, "
                f"or train.normalize: true"
            )

    # ------------------------------------------------------------ what is kept for a restart

    def _save(self, on_row: OnRow) -> None:
        everyone = all_values(random_state())
        losses = total(torch.stack(self._losses)) if self._losses else None
        if not self._keeper:
            self._tell(on_row)
            return
        tensors = self._weights.tensors() | self.step.tensors()
        tensors |= {f"random.{n}.{name}": each for n, states in enumerate(everyone) for name, each in states.items()}
        if losses is not None:
            tensors["losses"] = losses
        facts = {
            "epoch": self.epoch,
            "position": self.position,
            "sampler": self._drawn,
            "rows": self.rows,
            "times": self._times,
            "best": self.best,
            "step": self.step.facts(),
            "notes": self._notes,
        }
        self._keeper.save(self.step.number, State(tensors, facts), partial(self._tell, on_row, len(self.rows)))

    def _load(self, state: State) -> None:
        tensors, facts = state.tensors, state.facts
        self.epoch, self.position, self._drawn = facts["epoch"], facts["position"], facts["sampler"]
        self.rows, self._times, self.best = facts["rows"], facts["times"], facts["best"]
        self._weights.load(tensors)
        if "losses" in tensors:
            # They are everyone's sum, and will be summed once more.
            losses = tensors["losses"] if not rank() else torch.zeros_like(tensors["losses"])
            self._losses = list(losses.to(self.device))
        self.sampler.state = self._drawn
        self.step.load(tensors, facts["step"])
        prefix = f"random.{rank()}."
        set_random_state({name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)})

    def _settle(self, *, wait: bool = False) -> None:
        if self._keeper:
            self._keeper.poll(wait=wait)

    def _tell(self, on_row: OnRow, count: int | None = None) -> None:
        """Give the first `count` rows that were not given yet."""
        for row, when in list(zip(self.rows, self._times, strict=True))[self._told : count]:
            on_row(row, when)
            self._told += 1


def _rounded(row: Row) -> Row:
    return {
        key: round(value, 6) if isinstance(value, float) and key[:3] != "lr_" else value for key, value in row.items()
    }
