"""Averages of weights: over the steps of one training (EMA), and with the initial weights (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


class Average:
    """The exponential moving average of `parameters`, in `weights`: each step multiplies older steps by `decay`.

    At first, when there is little to average, the decay is (1 + step) / (10 + step). Buffers are not averaged: batch
    norm's statistics are averages over steps already.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self._decay, self._parameters = decay, parameters
        self.weights: Weights = {name: param.detach().clone() for name, param in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after step `step` (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        # As in torch.optim.swa_utils: one call for all tensors.
        torch._foreach_lerp_(list(self.weights.values()), list(self._parameters.values()), 1 - decay)


@torch.no_grad()
def interpolated(start: Weights, end: Weights, share: float) -> Weights:
    """share * end + (1 - share) * start, for each tensor (WiSE-FT, arXiv 2109.01903)."""
    return {name: torch.lerp(start[name], weight.detach(), share) for name, weight in end.items()}


@contextmanager
def applied(weights: Weights, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """The parameters hold `weights` inside the block, and their own values again after it."""
    before = {name: param.detach().clone() for name, param in parameters.items()}
    copy(weights, parameters)
    try:
        yield
    finally:
        copy(before, parameters)


@torch.no_grad()
def copy(weights: Weights, parameters: dict[str, nn.Parameter]) -> None:
    """Copy `weights` into the parameters of the same names."""
    for name, param in parameters.items():
        param.copy_(weights[name])
