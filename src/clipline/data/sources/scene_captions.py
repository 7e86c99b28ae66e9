"""Five differently worded captions for each drawn scene.

Every caption names all colours and shapes and how the objects are placed; sizes and the background are mentioned only
sometimes. About seventy different words in all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

CAPTIONS_PER_SCENE = 5
_SYNONYMS = {
    "large": ("large", "big"),
    "small": ("small", "little"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
}
# {layout: {placeholder: its words}}; where there are several, one is drawn.
_PLACES = {
    "across": {
        "before": ("left of", "to the left of", "on the left of"),
        "after": ("right of", "to the right of", "on the right of"),
        "at its start": "to its left",
        "at its end": "to its right",
        "at the start": "on the left",
        "at the end": "on the right",
        "forwards": "from left to right",
        "backwards": "from right to left",
    },
    "down": {
        "before": ("above", "over", "higher than"),
        "after": ("below", "under", "lower than"),
        "at its start": "above it",
        "at its end": "below it",
        "at the start": "at the top",
        "at the end": "at the bottom",
        "forwards": "from top to bottom",
        "backwards": "from bottom to top",
    },
    "left": {"place": ("on the left", "on the left side")},
    "right": {"place": ("on the right", "on the right side")},
    "top": {"place": ("at the top", "near the top")},
    "bottom": {"place": ("at the bottom", "near the bottom")},
    "middle": {"place": ("in the middle", "in the centre")},
}
# {number of objects: patterns}. `{a 0}` is the first object with its article, the other placeholders are above.
_PATTERNS = {
    1: (
        "{a 0} {place}",
        "there is {a 0} {place}",
        "only {a 0} {place}",
        "{place} stands {a 0}",
        "{a 0} alone {place}",
        "a picture of {a 0} {place}",
        "{the 0} is {place}",
    ),
    2: (
        "{a 0} {before} {a 1}",
        "{a 1} {after} {a 0}",
        "there is {a 0} {before} {a 1}",
        "{the 1} is {after} {the 0}",
        "{a 0} with {a 1} {at its end}",
        "{a 1} with {a 0} {at its start}",
        "{a 0} {at the start} and {a 1} {at the end}",
        "{at the end} stands {a 1}, {at the start} {a 0}",
        "a picture of {a 0} {before} {a 1}",
    ),
    3: (
        "{a 0}, {a 1} and {a 2} {forwards}",
        "{backwards} {a 2}, {a 1} and {a 0}",
        "{a 0} {before} {a 1} {before} {a 2}",
        "{a 1} between {a 0} {at the start} and {a 2} {at the end}",
        "there is {a 0} {at the start}, {a 1} in the middle and {a 2} {at the end}",
        "three shapes {forwards}: {a 0}, {a 1}, {a 2}",
    ),
}
_PLACEHOLDER = re.compile(r"{(?:(a|the) (\d)|([a-z ]+))}")


class SceneObject(NamedTuple):
    """One object. size: large or small. x, y: its centre; these and the diameter are in the units of `scenes`."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    diameter: float


class Scene(NamedTuple):
    """Objects from left to right (layout `across`) or top to bottom (`down`); for a lone one, layout is its place."""

    objects: tuple[SceneObject, ...]
    layout: str
    background: str


def describe(scene: Scene, rng: Random) -> list[str]:
    """Five captions, each made from another pattern. Words are drawn from `rng`."""
    patterns = _PATTERNS[len(scene.objects)]
    order = sorted(range(len(patterns)), key=[rng.random() for _ in patterns].__getitem__)
    captions = []
    for index in order[:CAPTIONS_PER_SCENE]:
        caption = _fill(patterns[index], scene, rng)
        captions.append(_with_background(caption, scene.background, rng))
    return captions


def _fill(pattern: str, scene: Scene, rng: Random) -> str:
    """Replace the placeholders from left to right. Sizes are named for all objects of the caption or for none."""
    count = len(scene.objects)
    sized = count == 1 or (count == 2 and rng.random() < 0.4)

    def words(placeholder: re.Match[str]) -> str:
        article, index, place = placeholder.groups()
        if place:
            options = _PLACES[scene.layout][place]
            return options if isinstance(options, str) else _pick(options, rng)
        item = scene.objects[int(index)]
        shape = _pick(_SYNONYMS.get(item.shape, (item.shape,)), rng)
        size = f"{_pick(_SYNONYMS[item.size], rng)} " if sized else ""
        noun = f"{size}{item.colour} {shape}"
        return f"{'an' if article == 'a' and noun.startswith('o') else article} {noun}"

    return _PLACEHOLDER.sub(words, pattern)


def _pick(words: Sequence[str], rng: Random) -> str:
    # Only Random.random() promises the same numbers in every version of Python; choice() does not.
    return words[int(rng.random() * len(words))]


def _with_background(caption: str, background: str, rng: Random) -> str:
    chance = rng.random()
    if chance < 0.25:
        return f"{caption} on a {background} background"
    if chance < 0.4:
        return f"on {background}, {caption}"
    return caption
