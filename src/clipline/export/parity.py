"""Does the exported graph compute what torch computes? On real inputs, in several batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipline.config.run import ExportParams
from clipline.errors import CliplineError

# One, the exporter's own, an odd one; the largest is the caller's batch size.
BATCHES = (1, 2, 7)


@dataclass(frozen=True)
class Parity:
    """The worst agreement found: cosine of the least alike pair, and the largest difference of a component."""

    min_cosine: float
    max_abs: float

    def worst(self, other: Parity) -> Parity:
        """The worse of both in each figure."""
        return Parity(min(self.min_cosine, other.min_cosine), max(self.max_abs, other.max_abs))


def compare(expected: np.ndarray, found: np.ndarray) -> Parity:
    """Two sets of embeddings, float32 [n, D], L2-normalised. A value that is not finite gives the worst figures."""
    if not np.isfinite(found).all():
        return Parity(-1.0, float("inf"))
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (expected * found).sum(axis=1) / np.maximum(norms, 1e-30)
    # A hair above 1 is rounding.
    return Parity(min(float(cosine.min()), 1.0), float(np.abs(expected - found).max()))


def compare_batches(
    torch_embed: Callable[[Sequence], np.ndarray],
    onnx_embed: Callable[[Sequence], np.ndarray],
    inputs: Sequence,
) -> Parity:
    """Both sides on the first 1, 2 and 7 of `inputs`: a graph with a fixed batch in it fails here."""
    parity = Parity(1.0, 0.0)
    for size in BATCHES:
        batch = inputs[:size]
        parity = parity.worst(compare(torch_embed(batch), onnx_embed(batch)))
    return parity


def check(name: str, parity: Parity, gate: ExportParams) -> None:
    """Raises CliplineError where `parity` misses the gate."""
    if not (parity.min_cosine >= gate.min_cosine and parity.max_abs <= gate.max_abs):
        raise CliplineError(
            f"{name}: parity with torch failed: min cosine {parity.min_cosine:.7f} (gate {gate.min_cosine}), "
            f"max abs {parity.max_abs:.2e} (gate {gate.max_abs:.0e}). The graph is not shipped. Fix: another "
            f"export.opset, or wider gates in params.yaml if you know why"
        )
