"""Model FLOPs of training per second (TFLOP/s), and their share of the GPU's peak (MFU).

Counted as in PaLM (arXiv 2204.02311, appendix B): the forward and backward products of towers and heads for the images
and the real tokens of a batch; a multiplication and an addition are two FLOPs. Padding, the loss, the optimiser, and
what gradient caching or gradient checkpointing computes a second time do not count. Captions count at their full
length, also where word dropout shortens them.
"""

from __future__ import annotations

import copy
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipline.data.prepared import Split
from clipline.model.clip import CLIP
from clipline.train.distributed.gather import world_size
from clipline.train.features import frozen_towers
from clipline.train.optim import set_frozen

# Samples in each counted forward pass: batch norm in training mode needs two.
SAMPLES = 2
# Peak TFLOP/s of dense matrix products in bf16, TF32 and float32, by torch.cuda.get_device_name; None where the GPU
# lacks the format. From NVIDIA's data sheets; figures given with sparsity are halved.
PEAKS: dict[str, tuple[float | None, float | None, float]] = {
    "NVIDIA H200": (989.4, 494.7, 66.9),
    "NVIDIA H100 80GB HBM3": (989.4, 494.7, 66.9),
    "NVIDIA H200 NVL": (835.5, 417.5, 60.0),
    "NVIDIA H100 NVL": (835.5, 417.5, 60.0),
    "NVIDIA H100 PCIe": (756.0, 378.0, 51.2),
    "NVIDIA A100-SXM4-80GB": (312.0, 156.0, 19.5),
    "NVIDIA A100-SXM4-40GB": (312.0, 156.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 156.0, 19.5),
    "NVIDIA A100-PCIE-40GB": (312.0, 156.0, 19.5),
    "NVIDIA L40S": (362.0, 183.0, 91.6),
    "NVIDIA L4": (121.0, 60.0, 30.3),
    "NVIDIA A10G": (70.0, 35.0, 35.0),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6, 82.6),
    "NVIDIA GeForce RTX 3090": (71.0, 35.6, 35.6),
    "Tesla V100-SXM2-16GB": (None, None, 15.7),
    "Tesla V100-SXM2-32GB": (None, None, 15.7),
    "Tesla T4": (None, None, 8.1),
}


class FlopCounter:
    """Adds up the FLOPs of training steps without running anything on the device.

    FLOPs are counted on a copy of the model on the meta device, which has shapes but neither memory nor random numbers.
    Make it before Step: gradient checkpointing, which Step turns on, would count twice.
    """

    def __init__(self, model: CLIP, split: Split, device: torch.device) -> None:
        """split: the training split, whose caption lengths count. device: where training runs, for its peak."""
        # deepcopy takes these in the place of the parameters, so that no weight is copied.
        parameters = {id(param): _meta_parameter(param) for param in model.parameters()}
        self._model = copy.deepcopy(model, parameters).to("meta").train()
        self._lengths, self._device = split.lengths, device
        self._costs: dict[tuple[float, float], tuple[np.ndarray, np.ndarray]] = {}
        self._reset()

    def _reset(self) -> None:
        # Sums over captions of their length to the power of 2, 1 and 0.
        self._images, self._length_powers = 0, np.zeros(3)

    def add(self, images: np.ndarray, captions: np.ndarray) -> None:
        """Count a step with these rows of the split, int64 [b] and int64 [t], of all processes together."""
        self._images += len(images)
        self._length_powers += np.vander(self._lengths[captions], 3).sum(axis=0)

    def row(self, epoch: int, seconds: float) -> dict[str, float]:
        """The figures of all steps since the last call, which belong to `epoch` (from 1) and took `seconds`.

        tflops: TFLOP/s of all devices together. mfu: their share of the devices' peak; absent where that is unknown.
        """
        image, caption = self._cost(epoch)
        done = self._images * image + np.array([caption @ self._length_powers, 0])
        self._reset()
        figures = {"tflops": float(done.sum()) / seconds / 1e12}
        heads_only = len(frozen_towers(self._model, epoch)) == 2  # heads compute in float32 whatever the precision
        peak = _peak(self._device, "fp32" if heads_only else self._model.recipe.train.precision)
        if peak is not None:
            figures["mfu"] = float((done / peak).sum()) / 1e12 / world_size() / seconds
        return figures

    def _cost(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """FLOPs of an image, float64 [2] (see `_count`); of a caption, the polynomial in its length, float64 [3]."""
        freeze = self._model.recipe.train.freeze
        stage = freeze.share("image", epoch), freeze.share("text", epoch)
        if stage not in self._costs:
            set_frozen(self._model, freeze, epoch)
            # Attention makes the FLOPs a polynomial of degree 2, which three lengths determine.
            lengths = np.linspace(2, self._model.recipe.inputs.max_length, 3).astype(int)
            captions = [self._count("text", epoch, int(length))[0] for length in lengths]
            self._costs[stage] = self._count("image", epoch), np.polyfit(lengths, captions, 2)
        return self._costs[stage]

    def _features(self, kind: str, epoch: int, length: int) -> Tensor:
        """What goes into the head: float32 [SAMPLES, F] on the meta device. length: tokens of a caption."""
        tower = self._model.image_tower if kind == "image" else self._model.text_tower
        if kind in frozen_towers(self._model, epoch):
            return torch.empty(SAMPLES, tower.width, device="meta")
        if kind == "image":
            size = self._model.recipe.inputs.image_size
            return tower(torch.empty(SAMPLES, size, size, 3, dtype=torch.uint8, device="meta"))
        # Without a mask, whose values transformers would read. Pooling has no products: a mean stands for any kind.
        hidden_BLF = tower.net(torch.empty(SAMPLES, length, dtype=torch.int64, device="meta")).last_hidden_state
        return hidden_BLF.mean(dim=1).repeat(1, tower.width // hidden_BLF.shape[-1])

    def _count(self, kind: str, epoch: int, length: int = 0) -> np.ndarray:
        """FLOPs of a sample's forward and backward pass, float64 [2]: of matrix products, and of convolutions."""
        head = self._model.image_head if kind == "image" else self._model.text_head
        learned = [param for param in self._model.parameters() if param.requires_grad]
        counter = FlopCounterMode(
            display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
        )
        # Attention as plain products: its fused kernels compute some a second time on the way back.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            torch.autograd.grad(head(self._features(kind, epoch, length)).sum(), learned, allow_unused=True)
        convolutions = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "conv" in str(op))
        return np.array([counter.get_total_flops() - convolutions, convolutions]) / SAMPLES


def _meta_parameter(param: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(param, device="meta"), param.requires_grad)


def _convolution_backward(grad_shape: Any, x_shape: Any, weight_shape: Any, *rest: Any, **_: Any) -> int:
    """Each gradient of a convolution costs what its forward pass did; torch's own count of it ignores groups."""
    _, _, _, _, transposed, _, _, output_mask = rest[:8]
    positions = x_shape[2:] if transposed else grad_shape[2:]
    return 2 * x_shape[0] * prod(positions) * prod(weight_shape) * sum(output_mask[:2])


def _peak(device: torch.device, precision: str) -> np.ndarray | None:
    """Peak TFLOP/s of matrix products and of convolutions in a recipe's precision: float64 [2], or None if unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if name not in PEAKS:
        return None
    bf16, tf32, fp32 = PEAKS[name]
    if precision != "fp32":
        return np.full(2, bf16) if bf16 else None
    # PyTorch may round float32 inputs to TF32; by default in convolutions only.
    allowed = torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32
    return np.array([(tf32 if tf32 and may_round else fp32) for may_round in allowed])
