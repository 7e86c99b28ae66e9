"""Embeddings of images that are shades of one another, and names and colours of hostile ones."""

from pathlib import Path

import numpy as np

from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Row
from tests.factories import unit

SECRET = (1, 2, 3)  # the colour of images that must never be served
SCRIPT = "${alert(1)}<img src=x onerror=alert(2)>'\"&.png"


def shades(count: int) -> dict[str, tuple[int, int, int]]:
    """From red by way of green to blue."""
    angle = np.linspace(0, np.pi, count)
    return {
        f"{number:03d}.png": (round(125 + 125 * np.cos(a)), round(250 * np.sin(a)), round(125 - 125 * np.cos(a)))
        for number, a in enumerate(angle)
    }


def write(folder: Path, rows: dict[str, tuple[int, int, int]]) -> None:
    """Embeddings in `folder` as the colour model would make them; their paths need not exist."""
    folder.mkdir(exist_ok=True)
    identity = Identity(model_id="colours", variant="fp32-0", dim=3, dtype="float32", root="../photos", model="../onnx")
    with Writer(folder, identity, 1000) as writer:
        for path, colour in rows.items():
            writer.add(Row(path, 1, None, "", 1, 1), unit(colour))
        writer.finish([])
