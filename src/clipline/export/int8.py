"""image.onnx -> image.int8.onnx: static 8-bit quantisation by onnxruntime, the layers that lose most left in float.

What is quantised, and why:
- Conv and MatMul with constant weights: nearly all of the work. Weights int8 per output channel (depthwise
  convolutions are useless with one scale for all), activations uint8 with scales fixed at export: a scale taken
  from the batch at hand (dynamic quantisation) would make an embedding depend on its neighbours.
- Between convolutions also ReLU and Clip (they vanish into the scale), residual Add and MaxPool: otherwise every
  layer would go to float and back, which costs more than the convolution saves.
- Not LayerNormalization, Softmax, Gelu and a transformer's residual Add: little work, and their few large values
  leave 8 bits nothing for the rest (cosine 0.93 instead of 0.9997 on a ViT-B/32). MatMul therefore gives float:
  onnxruntime then fuses it with its scales (MatMulIntegerToFloat), 1.6 times as fast as an 8-bit output here.
- Not attention's own two MatMul: a hundredth of the work, and softmax's output has no range that 8 bits suit.
- Not the scaling of pixels, nor Gemm: heads behind the pooling, one row per image, and all errors go straight out.

QDQ, not QOperator: as fast or faster with onnxruntime 1.31 (ViT-B/32 113 against 103 images/s), and every
provider can run it.
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
from clipline.runtime.session import Sessions
from clipline.utils import cores

# A mean cosine against fp32 that is good enough to look no further.
ENOUGH = 0.998
# At most so many trials to rank the layers, at most this share of them in float, and only while another group of
# them takes away this share of the error that is left (1 - cosine): each costs speed.
TRIALS, MOST_IN_FLOAT, WORTH_IT = 16, 0.25, 0.25


@dataclass(frozen=True)
class Int8:
    """What came out. cosine: mean over the probe images against fp32; in_float: names of layers left in float."""

    cosine: float
    layers: int
    in_float: list[str]


def to_int8(source: Path, target: Path, calibration: Iterable[np.ndarray], probe: np.ndarray) -> Int8:
    """Quantise the image graph `source` to `target`.

    calibration: batches of uint8 [b, S, S, 3] that fix the activations' ranges; probe: uint8 [n, S, S, 3], other
    images, on which layers are ranked. Raises CliplineError where the graph has no layer to quantise.
    """
    with tempfile.TemporaryDirectory() as name, _quiet():
        work = _Work(source, Path(name), calibration, probe)
        in_float = _choose(work)
        cosine = work.build(in_float, target)
    return Int8(cosine, len(work.layers.names), sorted(in_float, key=work.layers.names.index))


def _choose(work: _Work) -> list[str]:
    """The layers to leave in float: none, or those whose 8 bits cost most.

    Ranked by what the embeddings win where a group alone is left in float. A group is two neighbours or more: what
    hurts may be the tensor between them, which only both together leave in float; and it bounds the trials.
    """
    cosine = work.build([])
    if cosine >= ENOUGH:
        return []
    names = work.layers.names
    size = max(2, -(-len(names) // TRIALS))
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    groups.sort(key=work.build, reverse=True)
    chosen: list[str] = []
    for group in groups:
        if cosine >= ENOUGH or len(chosen + group) > max(size, MOST_IN_FLOAT * len(names)):
            break
        found = work.build(chosen + group)
        if 1 - found > (1 - WORTH_IT) * (1 - cosine):
            break
        chosen, cosine = chosen + group, found
    return chosen


class _Work:
    """The prepared graph, its ranges and the probe's fp32 embeddings."""

    def __init__(self, source: Path, folder: Path, calibration: Iterable[np.ndarray], probe: np.ndarray) -> None:
        self._prepared, self._ranges, self._trial = (folder / name for name in ("graph.onnx", "ranges", "trial.onnx"))
        # onnxruntime's symbolic shape inference fails on Expand with a batch of any size; onnx's own is enough.
        quant_pre_process(source, self._prepared, skip_symbolic_shape=True)
        self.layers = Layers(onnx.load(self._prepared).graph)
        if not self.layers.names:
            raise CliplineError(f"{source}: no convolution or matrix product with constant weights to quantise")
        _calibrate(self._prepared, self._ranges, self.layers.kinds, calibration, folder)
        self._probe = probe
        self._expected = _embed(source, probe)

    def build(self, in_float: list[str], target: Path | None = None) -> float:
        """Write the graph with all layers but `in_float` in int8; its mean cosine against fp32 on the probe."""
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
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        guard_float_layers(path)
        cosine = float((self._expected * _embed(path, self._probe)).sum(axis=1).mean())
        return cosine if np.isfinite(cosine) else -1.0


def _calibrate(prepared: Path, ranges: Path, kinds: list[str], batches: Iterable[np.ndarray], folder: Path) -> None:
    """Least and greatest value of each tensor, over all batches.

    Percentiles and entropy take twice the time, hold whole activations, and won nothing on Flickr8k with MobileNet
    (99.99 %: the same mean cosine to four digits).
    """
    calibrator = create_calibrator(
        prepared, kinds, str(folder / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
    )
    calibrator.collect_data(_Reader(batches))
    save_tensors_data(calibrator.compute_data(), ranges)


class _Reader:
    """What onnxruntime's calibration asks for its inputs."""

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
    """onnxruntime's quantiser writes hints to the root logger, and some of them once per layer."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
