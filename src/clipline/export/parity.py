"""Compare embeddings of an exported graph with those of torch, on real inputs and in several batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipline.config.run import ExportParams
from clipline.errors import CliplineError

# One, the size that the exporter traced, and an odd one; the caller compares its own batch size too.
BATCHES = (1, 2, 7)


@dataclass(frozen=True)
class Parity:
    """The smallest cosine of a pair of embeddings, and the largest absolute difference of a component."""

    min_cosine: float
    max_abs: float

    def worst(self, other: Parity) -> Parity:
        """The worse value of both, for each figure."""
        return Parity(min(self.min_cosine, other.min_cosine), max(self.max_abs, other.max_abs))


def compare(expected: np.ndarray, actual: np.ndarray) -> Parity:
    """Compare embeddings, float32 [n, D], L2-normalised. Non-finite values give the worst figures."""
    if not np.isfinite(actual).all():
        return Parity(-1.0, float("inf"))
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    cosine = (expected * actual).sum(axis=1) / np.maximum(norms, 1e-30)
    # Rounding may give slightly more than 1.
    return Parity(min(float(cosine.min()), 1.0), float(np.abs(expected - actual).max()))


def compare_batches(
    torch_embed: Callable[[Sequence], np.ndarray],
    onnx_embed: Callable[[Sequence], np.ndarray],
    inputs: Sequence,
) -> Parity:
    """Compare both on the first 1, 2 and 7 of `inputs`; a graph with a fixed batch size fails here."""
    parity = Parity(1.0, 0.0)
    for size in BATCHES:
        batch = inputs[:size]
        parity = parity.worst(compare(torch_embed(batch), onnx_embed(batch)))
    return parity


def check(name: str, parity: Parity, gate: ExportParams) -> None:
    """Raise CliplineError where `parity` misses the gate. name: of the graph's file."""
    if not (parity.min_cosine >= gate.min_cosine and parity.max_abs <= gate.max_abs):
        raise CliplineError(
            f"{name}: parity with torch failed: min cosine {parity.min_cosine:.7f} (gate {gate.min_cosine}), "
            f"max abs {parity.max_abs:.2e} (gate {gate.max_abs:.0e}). The graph is not shipped. Fix: another "
            f"export.opset, or wider gates in params.yaml if you know why"
        )
