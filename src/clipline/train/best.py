"""What a training is for: the weights of its best epoch, as they would be shipped."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from clipline.model.clip import CLIP
from clipline.train.average import Weights, applied, interpolated
from clipline.train.step import Step


class Best:
    """The best weights so far, on the CPU.

    wise_ft: see `config.training.Train`; make it before the first step.
    """

    def __init__(self, step: Step, wise_ft: float | None) -> None:
        self._step, self._model, self._wise_ft = step, step.model, wise_ft
        self._start = {name: each.detach().clone() for name, each in step.parameters.items()} if wise_ft else {}
        self._weights: Weights = {}

    def as_shipped(self) -> AbstractContextManager[None]:
        """The model with the weights that would be shipped now: averaged over steps, and with its first ones."""
        parameters = self._step.parameters
        weights = self._step.average.weights if self._step.average else None
        if self._wise_ft:
            weights = interpolated(self._start, weights or parameters, self._wise_ft)
        return applied(weights, parameters) if weights else nullcontext()

    def keep(self) -> None:
        """The model's present weights are the best."""
        self._weights = {name: each.detach().to("cpu", copy=True) for name, each in self._learned().items()}

    def tensors(self) -> dict[str, Tensor]:
        """For a restart: the model's present weights, and the best ones."""
        found = {f"model.{name}": each for name, each in self._learned().items()}
        return found | {f"best.{name}": each for name, each in self._weights.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from `tensors`."""
        present, self._weights = (
            {name.removeprefix(kind): each for name, each in tensors.items() if name.startswith(kind)}
            for kind in ("model.", "best.")
        )
        self._model.load_state_dict(present, strict=False)

    def model(self) -> CLIP:
        """The model with the best weights."""
        self._model.load_state_dict(self._weights, strict=False)
        return self._model

    def _learned(self) -> dict[str, Tensor]:
        """Weights and buffers, but for those of frozen towers, which the recipe has."""
        frozen = {id(each) for tower in self._model.frozen for each in (*tower.parameters(), *tower.buffers())}
        state = self._model.state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if id(value) not in frozen}
