"""Captioned scenes drawn from a seed: a dataset that needs no network, account or licence.

One to three plain shapes stand on a plain background. What every caption says (colours, shapes and how they
stand to each other, for a lone shape its size and place too) differs from image to image, so that a caption
finds its image; size and background are told only sometimes, in varying words. Pixels depend on the seed
alone; PNG bytes also on the zlib that Pillow was built with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from PIL import Image, ImageDraw

from clipline.config.dataset import Scenes
from clipline.data.sources.raw import Collected, Row, prune, reconcile
from clipline.data.sources.scene_captions import Scene, Thing, describe
from clipline.utils.progress import Bar

COLOURS = {
    "red": (214, 24, 32),
    "orange": (255, 134, 0),
    "yellow": (252, 226, 24),
    "green": (22, 146, 52),
    "cyan": (24, 204, 216),
    "blue": (32, 60, 214),
    "purple": (128, 32, 160),
    "pink": (255, 150, 196),
}
BACKGROUNDS = {"white": (248, 248, 248), "grey": (128, 128, 128), "black": (16, 16, 16)}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("large", "small")
PLACES = {"left": (25, 48), "right": (71, 48), "top": (48, 25), "bottom": (48, 71), "middle": (48, 48)}
AXES = ("across", "down")
# Parts of all scenes; what is left has three objects.
LONE, PAIRS = 0.05, 0.80
# All lengths below are in units of 1/96 of the image's side; shapes are drawn so much larger, then averaged.
UNITS, OVERSAMPLE = 96, 4
DIAMETERS = {"large": 40, "small": 25}
TRIO_DIAMETER = 27
Item = TypeVar("Item")


def collect(dataset: Scenes, cache: Path) -> Collected:
    """Draw `dataset.source.images` PNG files, five captions each. Raises CliplineError."""
    source = dataset.source
    folder = cache / "raw-scenes"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = Random(f"clipline scenes {source.seed}")
    rows = []
    with Bar("drawing scenes", source.images, "images") as bar:
        for index, scene in enumerate(compose(source.images, rng)):
            name = f"scene_{index:06d}.png"
            draw(scene, source.size).save(folder / "images" / name)
            rows += [Row(name, caption) for caption in describe(scene, rng)]
            bar.advance()
    names = {row.image for row in rows}
    prune(folder / "images", names)
    rows, skipped = reconcile(rows, names, dataset.expect, "scenes")
    return Collected(folder, rows, None, skipped)


def compose(count: int, rng: Random) -> Iterator[Scene]:
    """`count` scenes, no two of which share what their captions always tell."""
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    lone = _shuffled([((kind,), place, size) for kind in kinds for place in PLACES for size in SIZES], rng)
    pairs = _shuffled([((a, b), axis, None) for a in kinds for b in kinds for axis in AXES if a != b], rng)
    cores = lone[: round(count * LONE)] + pairs[: round(count * PAIRS)]
    seen = set()
    while len(cores) < count:
        core = (tuple(_pick(kinds, rng) for _ in range(3)), _pick(AXES, rng), None)
        if core not in seen and len(set(core[0])) == 3:
            seen.add(core)
            cores.append(core)
    for kinds_here, layout, size in _shuffled(cores, rng):
        yield _place(kinds_here, layout, size, rng)


def _place(kinds: Sequence[tuple[str, str]], layout: str, size: str | None, rng: Random) -> Scene:
    background = _pick(list(BACKGROUNDS), rng)
    if layout in PLACES:
        centres, diameters, shake = [PLACES[layout]], DIAMETERS, (4.0, 4.0)
    elif len(kinds) == 2:
        centres, diameters, shake = [(25, 48), (71, 48)], DIAMETERS, (3.0, 13.0)
    else:
        centres, diameters, shake = (
            [(17, 48), (48, 48), (79, 48)],
            dict.fromkeys(SIZES, TRIO_DIAMETER),
            (1.5, 13.0),
        )
    things = []
    for (colour, shape), centre in zip(kinds, centres, strict=True):
        along, beside = (at + (2 * rng.random() - 1) * by for at, by in zip(centre, shake, strict=True))
        x, y = (beside, along) if layout == "down" else (along, beside)
        own = size or _pick(SIZES, rng)
        things.append(Thing(colour, shape, own, x, y, diameters[own]))
    return Scene(tuple(things), layout, background)


def draw(scene: Scene, size: int) -> Image.Image:
    """A scene -> RGB image, `size` pixels square."""
    scale = size * OVERSAMPLE / UNITS
    image = Image.new("RGB", (size * OVERSAMPLE,) * 2, BACKGROUNDS[scene.background])
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        x, y, radius = (scale * value for value in (thing.x, thing.y, thing.diameter / 2))
        colour = COLOURS[thing.colour]
        box = (x - radius, y - radius, x + radius, y + radius)
        if thing.shape == "circle":
            canvas.ellipse(box, fill=colour)
        elif thing.shape == "ring":
            canvas.ellipse(box, outline=colour, width=round(radius * 0.45))
        else:
            canvas.polygon([(x + radius * u, y + radius * v) for u, v in _OUTLINES[thing.shape]], fill=colour)
    return image.reduce(OVERSAMPLE)


def _star() -> list[tuple[float, float]]:
    turns = [(math.pi * step / 5, 1.1 if step % 2 == 0 else 0.45) for step in range(10)]
    return [(length * math.sin(turn), -length * math.cos(turn)) for turn, length in turns]


_ARM, _SIDE = 0.34, 0.86
# Corners around the centre, in radii.
_OUTLINES = {
    "square": [(-_SIDE, -_SIDE), (_SIDE, -_SIDE), (_SIDE, _SIDE), (-_SIDE, _SIDE)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "star": _star(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip


def _pick(items: Sequence[Item], rng: Random) -> Item:
    # Only Random.random() promises the same numbers in every Python version; choice() and shuffle() do not.
    return items[int(rng.random() * len(items))]


def _shuffled(items: list[Item], rng: Random) -> list[Item]:
    return [item for _, item in sorted(((rng.random(), item) for item in items), key=lambda pair: pair[0])]
