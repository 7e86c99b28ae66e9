"""`kind: scenes`: captioned scenes drawn from a seed, which need no network, account or licence.

One to three plain shapes on a plain background. What every caption says (colours, shapes and their places relative to
each other; for a lone shape also its size and place) differs from image to image, so that a caption finds its image.
Size and background are mentioned only sometimes, in varying words. Pixels depend only on the seed; the bytes of the PNG
files also on the zlib that Pillow was built with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from PIL import Image, ImageDraw

from clipline.config.dataset import Scenes
from clipline.data.sources.raw import CaptionRow, Collected, prune, reconcile
from clipline.data.sources.scene_captions import Scene, SceneObject, describe
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
# Fractions of the scenes that have one and two objects; the others have three.
LONE, PAIRS = 0.05, 0.80
# Lengths below are in units of 1/96 of the image's side. Scenes are drawn OVERSAMPLE times larger, then averaged.
UNITS, OVERSAMPLE = 96, 4
DIAMETERS = {"large": 40, "small": 25}
TRIO_DIAMETER = 27
T = TypeVar("T")


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
            rows += [CaptionRow(name, caption) for caption in describe(scene, rng)]
            bar.advance()
    names = {row.image for row in rows}
    prune(folder / "images", names)
    rows, skipped = reconcile(rows, names, dataset.expect, "scenes")
    return Collected(folder, rows, None, skipped)


def compose(count: int, rng: Random) -> Iterator[Scene]:
    """Yield `count` scenes, no two of which agree in everything that their captions always say."""
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    lone = _shuffled([((kind,), place, size) for kind in kinds for place in PLACES for size in SIZES], rng)
    pairs = _shuffled([((a, b), axis, None) for a in kinds for b in kinds for axis in AXES if a != b], rng)
    plans = lone[: round(count * LONE)] + pairs[: round(count * PAIRS)]
    seen = set()
    while len(plans) < count:
        plan = (tuple(_pick(kinds, rng) for _ in range(3)), _pick(AXES, rng), None)
        if plan not in seen and len(set(plan[0])) == 3:
            seen.add(plan)
            plans.append(plan)
    for chosen, layout, size in _shuffled(plans, rng):
        yield _place(chosen, layout, size, rng)


def _place(kinds: Sequence[tuple[str, str]], layout: str, size: str | None, rng: Random) -> Scene:
    background, diameters = _pick(list(BACKGROUNDS), rng), DIAMETERS
    if layout in PLACES:
        centres, shift = [PLACES[layout]], (4.0, 4.0)
    elif len(kinds) == 2:
        centres, shift = [(25, 48), (71, 48)], (3.0, 13.0)
    else:
        centres, shift = [(17, 48), (48, 48), (79, 48)], (1.5, 13.0)
        diameters = dict.fromkeys(SIZES, TRIO_DIAMETER)
    objects = []
    for (colour, shape), centre in zip(kinds, centres, strict=True):
        along, across = (start + (2 * rng.random() - 1) * reach for start, reach in zip(centre, shift, strict=True))
        x, y = (across, along) if layout == "down" else (along, across)
        object_size = size or _pick(SIZES, rng)
        objects.append(SceneObject(colour, shape, object_size, x, y, diameters[object_size]))
    return Scene(tuple(objects), layout, background)


def draw(scene: Scene, size: int) -> Image.Image:
    """Draw a scene as an RGB image of `size` x `size` pixels."""
    scale = size * OVERSAMPLE / UNITS
    image = Image.new("RGB", (size * OVERSAMPLE,) * 2, BACKGROUNDS[scene.background])
    canvas = ImageDraw.Draw(image)
    for item in scene.objects:
        x, y, radius = (scale * value for value in (item.x, item.y, item.diameter / 2))
        colour = COLOURS[item.colour]
        box = (x - radius, y - radius, x + radius, y + radius)
        if item.shape == "circle":
            canvas.ellipse(box, fill=colour)
        elif item.shape == "ring":
            canvas.ellipse(box, outline=colour, width=round(radius * 0.45))
        else:
            canvas.polygon([(x + radius * u, y + radius * v) for u, v in _OUTLINES[item.shape]], fill=colour)
    return image.reduce(OVERSAMPLE)


def _star() -> list[tuple[float, float]]:
    turns = [(math.pi * step / 5, 1.1 if step % 2 == 0 else 0.45) for step in range(10)]
    return [(length * math.sin(turn), -length * math.cos(turn)) for turn, length in turns]


_ARM, _SIDE = 0.34, 0.86
# Corners relative to the centre, in radii.
_OUTLINES = {
    "square": [(-_SIDE, -_SIDE), (_SIDE, -_SIDE), (_SIDE, _SIDE), (-_SIDE, _SIDE)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "star": _star(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip


def _pick(items: Sequence[T], rng: Random) -> T:
    # Only Random.random() promises the same numbers in every version of Python; choice() and shuffle() do not.
    return items[int(rng.random() * len(items))]


def _shuffled(items: list[T], rng: Random) -> list[T]:
    return [item for _, item in sorted(((rng.random(), item) for item in items), key=lambda pair: pair[0])]
