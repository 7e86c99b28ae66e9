"""The result of a training: the weights of its best epoch, as the finished model has them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from clipline.model.clip import CLIP
from clipline.train.average import Weights, applied, interpolated
from clipline.train.step import Step


class Best:
    """The best weights so far, on the CPU. Make it before the first step, because `wise_ft` needs the initial weights.

    wise_ft: see `config.training.Train`.
    """

    def __init__(self, step: Step, wise_ft: float | None) -> None:
        self._step, self._model, self._wise_ft = step, step.model, wise_ft
        self._start = {name: param.detach().clone() for name, param in step.parameters.items()} if wise_ft else {}
        self._weights: Weights = {}

    def as_finished(self) -> AbstractContextManager[None]:
        """Inside the block the model has the weights of a finished model: averaged by EMA and WiSE-FT."""
        parameters = self._step.parameters
        weights = self._step.average.weights if self._step.average else None
        if self._wise_ft:
            weights = interpolated(self._start, weights or parameters, self._wise_ft)
        return applied(weights, parameters) if weights else nullcontext()

    def keep(self) -> None:
        """Keep the model's present weights as the best."""
        self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._trained().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The state for a restart: the model's present weights and the best ones."""
        present = {f"model.{name}": tensor for name, tensor in self._trained().items()}
        return present | {f"best.{name}": tensor for name, tensor in self._weights.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        present, self._weights = (
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            for prefix in ("model.", "best.")
        )
        self._model.load_state_dict(present, strict=False)

    def model(self) -> CLIP:
        """The model with the best weights."""
        self._model.load_state_dict(self._weights, strict=False)
        return self._model

    def _trained(self) -> dict[str, Tensor]:
        """Weights and buffers, except for those of frozen towers, which a restart builds from the recipe."""
        frozen = {id(tensor) for tower in self._model.frozen for tensor in (*tower.parameters(), *tower.buffers())}
        state = self._model.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in state.items() if id(tensor) not in frozen}
