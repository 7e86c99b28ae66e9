"""image.fp16.onnx and image.int8.onnx: built from image.onnx, compared with it, and kept if they pass their gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipline.config.run import ExportParams, VariantGate
from clipline.data.prepared import Prepared, Split
from clipline.embed.batch_size import rate
from clipline.evaluation import Embedded
from clipline.export.gates import RATE_SECONDS, TestSplit, graph_figures, recall_change, recall_gate_failure
from clipline.export.manifest import FILES
from clipline.export.parity import Parity, compare
from clipline.runtime.model import OnnxModel

# Images in a batch of calibration, whose activations are all in memory, and images to rank layers on.
BATCH, PROBE = 8, 32


def build(folder: Path, data: Prepared, params: ExportParams) -> dict[str, dict[str, Any]]:
    """Write the variants in `params.precisions` beside image.onnx; returns precision -> its part of the report.

    A variant that cannot be built is no error; the report gives the reason.
    """
    report: dict[str, dict[str, Any]] = {}
    for precision in params.precisions:
        source, target = folder / FILES["image"]["fp32"], folder / FILES["image"][precision]
        try:
            report[precision] = _BUILD[precision](source, target, data.split("train"), params)
        # A graph that a converter cannot handle must not fail the fp32 export; its error goes into the report.
        except Exception as error:  # noqa: BLE001
            target.unlink(missing_ok=True)
            why = f"cannot be built: {type(error).__name__}: {error}"
            report[precision] = {"shipped": False, "why": why}
    return report


def _fp16(source: Path, target: Path, _train: Split, _params: ExportParams) -> dict[str, Any]:
    from clipline.export.fp16 import to_fp16

    to_fp16(source, target)
    return {}


def _int8(source: Path, target: Path, train: Split, params: ExportParams) -> dict[str, Any]:
    from clipline.export.int8 import to_int8

    calibration, probe = calibration_rows(train.image_rows, params.calibration_images)
    batches = (np.array(train.images[calibration[i : i + BATCH]]) for i in range(0, len(calibration), BATCH))
    result = to_int8(source, target, batches, np.array(train.images[probe]))
    return {"calibration_images": len(calibration), "layers": result.layers, "layers_in_float": result.in_float}


_BUILD: dict[str, Callable[[Path, Path, Split, ExportParams], dict[str, Any]]] = {"fp16": _fp16, "int8": _int8}


def calibration_rows(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` rows to calibrate on and PROBE other rows to rank layers on, both spread evenly over `rows`.

    Fewer rows are divided in the same proportion; a single row is used for both.
    """
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), count + PROBE)).astype(int))]
    if len(chosen) < 2:
        return chosen, chosen
    probes = max(1, len(chosen) * PROBE // (count + PROBE))
    indices = np.linspace(0, len(chosen), probes, endpoint=False).astype(int)
    return np.delete(chosen, indices), chosen[indices]


def measure(
    folder: Path, test: TestSplit, expected: Embedded, params: ExportParams
) -> Iterator[tuple[str, dict[str, Any], Parity]]:
    """Compare each variant in `folder` with fp32's embeddings of the test split; yields precision, report and parity.

    expected: fp32's embeddings. A variant that misses its gate is deleted, and its report gives the reason.
    """
    for precision in params.precisions:
        path = folder / FILES["image"][precision]
        if not path.is_file():
            continue
        model = OnnxModel(folder, provider="cpu", precision=precision)
        images = np.concatenate([model.embed_pixels(pixels) for pixels in test.batches()])
        parity, recalls = compare(expected.images, images), test.recalls(Embedded(images, expected.texts))
        report: dict[str, Any] = graph_figures(path, parity) | {
            "images_per_second": round(rate(model, test.pixels, RATE_SECONDS), 1),
            "test": recalls,
            "delta_r1": recall_change(test.recalls(expected), recalls),
        }
        why = _missed(report, test.split, getattr(params, precision))
        if why:
            path.unlink()
        yield precision, report | {"shipped": not why} | ({"why": why} if why else {}), parity


def _missed(report: dict[str, Any], split: Split, gate: VariantGate) -> str | None:
    if not report["min_cosine"] >= gate.min_cosine:
        return f"min cosine {report['min_cosine']:.5f} (gate {gate.min_cosine})"
    return recall_gate_failure(report["delta_r1"], split, gate.max_r1_drop)
