"""image.onnx -> image.int8.onnx: static 8-bit quantisation by onnxruntime; the layers that lose most stay in float.

What is quantised, and why:
- Conv and MatMul with constant weights: nearly all of the work. Weights are int8 per output channel (depthwise
  convolutions are useless with one scale for all), activations uint8 with scales fixed at export: scales of the batch
  at hand (dynamic quantisation) would make an embedding depend on the other images of its batch.
- Weights take 7 of the 8 bits. CPUs without VNNI add two products of bytes in 16 bits, where 8-bit weights overflow
  (cosine 0.987 instead of 0.998 with MobileNet); 2 x 255 x 64 fits. So a graph computes the same under any onnxruntime
  on any CPU, and needs no slower kernels: docs/benchmarks.md has what that costs and gains.
- Between convolutions also ReLU and Clip (which the scale absorbs), residual Add and MaxPool: otherwise every layer
  would be converted to float and back, which costs more than the convolution saves.
- Not LayerNormalization, Softmax, Gelu and the residual Add of transformers: little work, and few large values take
  the range of the 8 bits (cosine 0.93 instead of 0.9997 on a ViT-B/32). So MatMul has a float output: onnxruntime then
  fuses it with its scales (MatMulIntegerToFloat), 1.6 times as fast as an 8-bit output.
- Not the two MatMul of attention: a hundredth of the work, and softmax's output has no range that suits 8 bits.
- Not the scaling of pixels, nor Gemm: heads after the pooling have one row per image, and no later layer averages
  their errors.

QDQ, not QOperator: as fast or faster with onnxruntime 1.31 (ViT-B/32 113 against 103 images/s), and every provider
runs it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

from clipline.errors import CliplineError
from clipline.export.int8_layers import Layers, guard_float_layers
from clipline.runtime.session import WEIGHT_BITS, Sessions
from clipline.utils import cores

# With this mean cosine against fp32 no more layers are left in float.
GOOD_COSINE = 0.998
# Layers in float cost speed. Groups of them are ranked in at most TRIALS trials; at most this share of the layers stays
# in float, and only while a group reduces the remaining error (1 - cosine) by this share.
TRIALS, MAX_FLOAT_SHARE, MIN_GAIN = 16, 0.25, 0.25


@dataclass(frozen=True)
class Int8:
    """The result. cosine: mean over the probe images against fp32. in_float: names of the layers left in float."""

    cosine: float
    layers: int
    in_float: list[str]


def to_int8(source: Path, target: Path, calibration: Iterable[np.ndarray], probe: np.ndarray) -> Int8:
    """Quantise the image graph `source` to `target`.

    calibration: batches of uint8 [b, S, S, 3] that fix the ranges of activations. probe: uint8 [n, S, S, 3], other
    images, on which layers are ranked. Raises CliplineError where the graph has no layer to quantise.
    """
    with tempfile.TemporaryDirectory() as name, _quiet():
        quantiser = _Quantiser(source, Path(name), calibration, probe)
        in_float = _pick_float_layers(quantiser)
        cosine = quantiser.build(in_float, target)
    return Int8(cosine, len(quantiser.layers.names), sorted(in_float, key=quantiser.layers.names.index))


def _pick_float_layers(quantiser: _Quantiser) -> list[str]:
    """The layers to leave in float: none, or those that lose most in 8 bits.

    Groups of layers are ranked by the cosine with only that group in float. A group has at least two neighbours: the
    loss may be in the tensor between them, which is in float only if both are. Groups also bound the trials.
    """
    cosine = quantiser.build([])
    if cosine >= GOOD_COSINE:
        return []
    names = quantiser.layers.names
    size = max(2, -(-len(names) // TRIALS))
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    groups.sort(key=quantiser.build, reverse=True)
    picked: list[str] = []
    for group in groups:
        if cosine >= GOOD_COSINE or len(picked + group) > max(size, MAX_FLOAT_SHARE * len(names)):
            break
        better = quantiser.build(picked + group)
        if 1 - better > (1 - MIN_GAIN) * (1 - cosine):
            break
        picked, cosine = picked + group, better
    return picked


class _Quantiser:
    """Builds int8 graphs from the prepared graph and its ranges, and compares them with fp32 on the probe."""

    def __init__(self, source: Path, folder: Path, calibration: Iterable[np.ndarray], probe: np.ndarray) -> None:
        self._prepared, self._ranges, self._trial = (folder / name for name in ("graph.onnx", "ranges", "trial.onnx"))
        # onnxruntime's symbolic shape inference fails on Expand with a dynamic batch; that of onnx is enough.
        quant_pre_process(source, self._prepared, skip_symbolic_shape=True)
        self.layers = Layers(onnx.load(self._prepared).graph)
        if not self.layers.names:
            raise CliplineError(f"{source}: no convolution or matrix product with constant weights to quantise")
        _calibrate(self._prepared, self._ranges, self.layers.kinds, calibration, folder)
        self._probe = probe
        self._expected = _embed(source, probe)

    def build(self, in_float: list[str], target: Path | None = None) -> float:
        """Write the graph with all layers but `in_float` in int8; returns its mean cosine against fp32 on the probe."""
        path = target or self._trial
        quantize_static(
            self._prepared,
            path,
            calibration_cache_path=self._ranges,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=self.layers.kinds,
            nodes_to_quantize=self.layers.quantised(set(in_float)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        model = onnx.load(path)
        guard_float_layers(model.graph)
        onnx.helper.set_model_props(model, {WEIGHT_BITS: "7"})
        onnx.save(model, path)
        cosine = float((self._expected * _embed(path, self._probe)).sum(axis=1).mean())
        return cosine if np.isfinite(cosine) else -1.0


def _calibrate(prepared: Path, ranges: Path, kinds: list[str], batches: Iterable[np.ndarray], folder: Path) -> None:
    """Write the minimum and maximum of each tensor over all batches to `ranges`.

    Percentiles and entropy take twice the time, keep all activations in memory, and gained nothing on Flickr8k with
    MobileNet (99.99 %: the same mean cosine to four digits).
    """
    calibrator = create_calibrator(
        prepared, kinds, str(folder / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
    )
    calibrator.collect_data(_Reader(batches))
    save_tensors_data(calibrator.compute_data(), ranges)


class _Reader:
    """The interface by which onnxruntime's calibration reads its inputs."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None at the end."""
        pixels = next(self._batches, None)
        return None if pixels is None else {"pixels": pixels}


def _embed(graph: Path, pixels: np.ndarray) -> np.ndarray:
    session = Sessions("cpu", cores.available()).open(graph)
    return session.run(["embedding"], {"pixels": pixels})[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence hints that onnxruntime's quantiser logs to the root logger, some of them once per layer."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
