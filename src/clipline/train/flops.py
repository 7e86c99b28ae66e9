"""How much arithmetic training does a second, and what share that is of what the GPU could.

Model FLOPs (PaLM, arXiv 2204.02311, appendix B): what forward and backward of towers and heads must compute for the
images and the real tokens seen, a multiplication and an addition being two. What is computed twice to save memory
(gradient caching, gradient checkpointing), padding, the loss and the optimiser do not count. Tokens count as the
captions have them, also those that word dropout leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipline.config.training import Train
from clipline.model.clip import CLIP
from clipline.train.batches import Batches
from clipline.train.distributed.gather import world_size
from clipline.train.features import resting
from clipline.train.grad_cache import frozen_statistics
from clipline.train.optim import set_frozen
from clipline.train.state import random_state, set_random_state

# Samples that are counted at once: batch norm wants two.
SAMPLES = 2
# Lengths at which captions are counted. Attention makes a caption's FLOPs a polynomial of degree 2 in its length.
LENGTHS = 3


class Cost(NamedTuple):
    """FLOPs of matrix products and of convolutions: float64 [2] of an image, [L + 1, 2] of a caption by its length."""

    image: np.ndarray
    caption: np.ndarray


class Flops:
    """Counts once what a sample costs, and then adds up what steps cost without asking the device.

    Make it before Step: gradient checkpointing, which that turns on, would be counted. The model, its gradients and
    all random states stay as they were. done: FLOPs since the last `row`, float64 [2], as Cost.
    """

    def __init__(self, model: CLIP, data: Batches, config: Train) -> None:
        self._split = data.split
        self._costs: dict[int, Cost] = {}
        self._peaks: dict[int, np.ndarray | None] = {}
        for epoch in _stages(model, config):
            data.use(kinds := resting(model, epoch))
            self._costs[epoch] = count(model, data)
            self._peaks[epoch] = peaks(data.device, config.precision if len(kinds) < 2 else "fp32")
        self.done, self._stage = np.zeros(2), 1

    def add(self, epoch: int, images: np.ndarray, captions: np.ndarray) -> None:
        """A step of `epoch` is done with these rows of all processes together, int64 [b] and [t]."""
        self._stage = max(first for first in self._costs if first <= epoch)
        cost = self._costs[self._stage]
        self.done += cost.image * len(images) + cost.caption[self._split.lengths[captions]].sum(axis=0)

    def row(self, seconds: float) -> dict[str, float]:
        """What the steps since the last `row` come to: tflops, TFLOP/s of all devices; mfu, the share of their peak.

        No mfu where the peak is not known. seconds: that they took.
        """
        found = {"tflops": float(self.done.sum()) / seconds / 1e12}
        if (most := self._peaks[self._stage]) is not None:
            # The time that it takes at the peak, by the time that it took.
            found["mfu"] = float((self.done / most).sum()) / 1e12 / world_size() / seconds
        self.done = np.zeros(2)
        return found


# ---------------------------------------------------------------- counting


def count(model: CLIP, data: Batches) -> Cost:
    """What a sample of `data` costs in training `model` as it is, by counting a few. Changes nothing."""
    rows = np.arange(SAMPLES) % len(data.split.image_rows)
    longest = int(data.split.lengths.argmax())
    with _nothing_changed(model):
        model.train()
        pixels, texts = data.images(rows), data.texts(np.full(SAMPLES, longest))
        image = _flops(model, _tower(model.image_tower, model.image_head), pixels)
        # Each length from 0, so that a caption's is its row.
        lengths = np.arange(int(data.split.lengths[longest]) + 1)
        text = _tower(model.text_tower, model.text_head)
        if not isinstance(texts, tuple):
            return Cost(image, np.tile(_flops(model, text, texts), (len(lengths), 1)))
        measured = np.unique(np.linspace(min(lengths[-1], 2), lengths[-1], LENGTHS).round().astype(int))
        found = np.stack([_flops(model, text, *(each[:, :length] for each in texts)) for length in measured])
        return Cost(image, _polynomial(measured, found, lengths))


def _tower(tower: torch.nn.Module, head: torch.nn.Module) -> Callable[..., Tensor]:
    """The tower and its head, or its head alone on cached features [b, F]."""
    return lambda *inputs: head(inputs[0] if inputs[0].is_floating_point() else tower(*inputs))


def _polynomial(at: np.ndarray, values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The polynomial through `values` [n, 2] at n places `at`: [m, 2] at `where` [m]."""
    powers = np.linalg.solve(np.vander(at.astype(float)), values)
    return np.vander(where.astype(float), len(at)) @ powers


def _flops(model: CLIP, encode: Callable[..., Tensor], *inputs: Tensor) -> np.ndarray:
    """FLOPs a sample of forward and backward of `encode`: float64 [2], as Cost."""
    learn = [each for each in model.parameters() if each.requires_grad]
    # Attention as plain products: its fused kernels compute some again on the way back, and count that.
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        found = encode(*inputs)
        if found.requires_grad:
            # Not `backward`: gradients that are there stay as they are.
            torch.autograd.grad(found.sum(), learn, allow_unused=True)
    counts = {str(name): value for name, value in counter.get_flop_counts().get("Global", {}).items()}
    convolutions = sum(value for name, value in counts.items() if "conv" in name)
    return np.array([sum(counts.values()) - convolutions, convolutions], dtype=np.float64) / len(inputs[0])


def _convolution_backward(grad_shape: Any, x_shape: Any, weight_shape: Any, *rest: Any, **_: Any) -> int:
    """Either gradient of a convolution costs what the convolution did. torch's own count forgets groups."""
    _, _, _, _, transposed, _, _, wanted = rest[:8]
    places = x_shape[2:] if transposed else grad_shape[2:]
    return 2 * x_shape[0] * prod(places) * prod(weight_shape) * sum(wanted[:2])


def _stages(model: CLIP, config: Train) -> Iterator[int]:
    """The epochs from which on another part of the towers learns, with the model as it is from then on."""
    learns = {parameter: parameter.requires_grad for parameter in model.parameters()}
    limits = [each.epochs for each in (*config.freeze.image, *config.freeze.text) if each.epochs]
    try:
        for epoch in sorted({1, *(limit + 1 for limit in limits if limit < config.epochs)}):
            set_frozen(model, config.freeze, epoch)
            yield epoch
    finally:
        for parameter, value in learns.items():
            parameter.requires_grad_(value)


@contextmanager
def _nothing_changed(model: CLIP) -> Iterator[None]:
    """Whatever runs in the block, random states, modes and buffers are afterwards what they were before."""
    modes, random = {module: module.training for module in model.modules()}, random_state()
    try:
        with frozen_statistics(model):
            yield
    finally:
        set_random_state(random)
        for module, mode in modes.items():
            module.training = mode


# ---------------------------------------------------------------- peaks


class Peak(NamedTuple):
    """TFLOP/s of dense products; None where the device has no such arithmetic."""

    bf16: float | None
    tf32: float | None
    fp32: float


# By what CUDA calls the device, less its makers' names. From NVIDIA's data sheets and white papers; where these give
# tensor cores' figures with sparsity, half of them. Parts of a device (MIG) and kin with other figures match nothing.
PEAKS = {
    r"H200|H100 \d+GB HBM\w+": Peak(989.4, 494.7, 66.9),
    r"H[12]00 NVL": Peak(835.5, 417.5, 60.0),
    r"H100 PCIe": Peak(756.0, 378.0, 51.2),
    r"A100-(?:SXM4|PCIE)-\d+GB|A100 80GB PCIe": Peak(312.0, 156.0, 19.5),
    r"L40S": Peak(362.0, 183.0, 91.6),
    r"L4": Peak(121.0, 60.0, 30.3),
    r"A10G": Peak(70.0, 35.0, 35.0),
    r"V100-SXM2-\d+GB": Peak(None, None, 15.7),
    r"V100-PCIE-\d+GB": Peak(None, None, 14.0),
    r"T4": Peak(None, None, 8.1),
    r"RTX 4090": Peak(165.2, 82.6, 82.6),
    r"RTX 3090": Peak(71.0, 35.6, 35.6),
}


def peak(name: str) -> Peak | None:
    """The peak of the device that CUDA calls `name`, such as "NVIDIA A100-SXM4-80GB"; None where it is not known."""
    short = re.sub(r"^(?:(?:NVIDIA|Tesla|GeForce)\s+)+", "", name)
    return next((found for pattern, found in PEAKS.items() if re.fullmatch(pattern, short)), None)


def peaks(device: torch.device, precision: str) -> np.ndarray | None:
    """TFLOP/s at most of matrix products and of convolutions in a recipe's precision: float64 [2], or None."""
    found = peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if found is None:
        return None
    if precision != "fp32":
        return np.full(2, found.bf16) if found.bf16 else None
    # torch may round what tensor cores multiply in float32; by default of convolutions only.
    rounds = torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32
    return np.array([(found.tf32 if each else None) or found.fp32 for each in rounds])
