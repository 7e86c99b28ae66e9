"""Sentences about photos, such as users search for: sample queries to measure the approximate index with."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from clipline.runtime.model import OnnxModel

SUBJECTS = (
    "a dog", "two children", "a man in a red shirt", "a woman with glasses", "a group of people", "a white cat",
    "a bird", "an old couple", "a boy on a bicycle", "a horse", "football players", "a girl in a blue dress",
    "a yellow car", "a boat", "a plate of food", "a tall building",
)  # fmt: skip
PLACES = (
    "in the snow", "on the beach", "in a park", "on a city street", "in the water", "at night", "in front of a crowd",
    "on a wooden table", "in a green field", "near the mountains", "inside a house", "under a blue sky",
)  # fmt: skip


def sentences() -> list[str]:
    """Some 200 sentences, always the same."""
    return [f"{subject} {place}" for subject, place in product(SUBJECTS, PLACES)]


def embed_sentences(model: OnnxModel) -> np.ndarray:
    """Their embeddings, float32 [q, dim], L2-normalised."""
    return model.embed_texts(sentences())
