"""Weights that are averages: over the steps of one training (EMA), and with the weights it began with (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


class Average:
    """The exponential moving average of `parameters`; an older step counts `decay` times less with each new one.

    At first, when there is little to average, the decay is (1 + step) / (10 + step). `weights` are the averages.
    Buffers (batch norm's statistics) are averages over steps already.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self._decay, self._parameters = decay, parameters
        self.weights: Weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step` (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        # As torch.optim.swa_utils does it: one call for all tensors.
        torch._foreach_lerp_(list(self.weights.values()), list(self._parameters.values()), 1 - decay)


@torch.no_grad()
def interpolated(start: Weights, end: Weights, share: float) -> Weights:
    """share * end + (1 - share) * start, weight by weight (WiSE-FT, arXiv 2109.01903)."""
    return {name: torch.lerp(start[name], weight.detach(), share) for name, weight in end.items()}


@contextmanager
def applied(weights: Weights, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """The parameters hold `weights` while the block runs, and their own values afterwards."""
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    copy(weights, parameters)
    try:
        yield
    finally:
        copy(before, parameters)


@torch.no_grad()
def copy(weights: Weights, parameters: dict[str, nn.Parameter]) -> None:
    """Give each of `parameters` its value of `weights`."""
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
