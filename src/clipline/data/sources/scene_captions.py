"""Words for the drawn scenes: five differently worded captions for each.

Every caption names all colours and shapes and how they stand to each other; it mentions sizes and the
background only sometimes. About seventy words in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

CAPTIONS_PER_SCENE = 5
_SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little")}
_SHAPE_WORDS = {"circle": ("circle", "disc"), "square": ("square", "box")}
_BEFORE = {
    "across": ("left of", "to the left of", "on the left of"),
    "down": ("above", "over", "higher than"),
}
_AFTER = {
    "across": ("right of", "to the right of", "on the right of"),
    "down": ("below", "under", "lower than"),
}
_AT_ITS = {"across": ("to its left", "to its right"), "down": ("above it", "below it")}
_ENDS = {"across": ("on the left", "on the right"), "down": ("at the top", "at the bottom")}
_ORDERS = {
    "across": ("from left to right", "from right to left"),
    "down": ("from top to bottom", "from bottom to top"),
}
_PLACES = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "middle": ("in the middle", "in the centre"),
}


class Thing(NamedTuple):
    """One shape. size is one of SIZES; x, y (its centre) and diameter are in units."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    diameter: float


class Scene(NamedTuple):
    """Things from left to right (`across`) or top to bottom (`down`); a lone thing has a place instead."""

    things: tuple[Thing, ...]
    layout: str
    background: str


def describe(scene: Scene, rng: Random) -> list[str]:
    """Five captions that differ, each from another pattern."""
    patterns = {1: _LONE, 2: _PAIR, 3: _TRIO}[len(scene.things)]
    order = sorted(range(len(patterns)), key=[rng.random() for _ in patterns].__getitem__)
    captions = []
    for index in order[:CAPTIONS_PER_SCENE]:
        caption = patterns[index](_Speaker(scene, rng))
        captions.append(_with_background(caption, scene.background, rng))
    return captions


class _Speaker:
    """Says parts of one caption: synonyms are drawn anew for each, sizes are named for all things or none."""

    def __init__(self, scene: Scene, rng: Random) -> None:
        self.scene, self.rng = scene, rng
        self.sized = len(scene.things) == 1 or (len(scene.things) == 2 and rng.random() < 0.4)

    def one_of(self, words: Sequence[str]) -> str:
        return words[int(self.rng.random() * len(words))]

    def bare(self, thing: Thing) -> str:
        shape = self.one_of(_SHAPE_WORDS.get(thing.shape, (thing.shape,)))
        size = f"{self.one_of(_SIZE_WORDS[thing.size])} " if self.sized else ""
        return f"{size}{thing.colour} {shape}"

    def a(self, index: int) -> str:
        words = self.bare(self.scene.things[index])
        return f"{'an' if words.startswith('o') else 'a'} {words}"

    def the(self, index: int) -> str:
        return f"the {self.bare(self.scene.things[index])}"

    @property
    def before(self) -> str:
        return self.one_of(_BEFORE[self.scene.layout])

    @property
    def after(self) -> str:
        return self.one_of(_AFTER[self.scene.layout])

    @property
    def place(self) -> str:
        return self.one_of(_PLACES[self.scene.layout])

    def at_its(self, end: int) -> str:
        return _AT_ITS[self.scene.layout][end]

    def end(self, end: int) -> str:
        return _ENDS[self.scene.layout][end]

    def order(self, way: int) -> str:
        return _ORDERS[self.scene.layout][way]


Pattern = Callable[[_Speaker], str]

_LONE: list[Pattern] = [
    lambda s: f"{s.a(0)} {s.place}",
    lambda s: f"there is {s.a(0)} {s.place}",
    lambda s: f"only {s.a(0)} {s.place}",
    lambda s: f"{s.place} stands {s.a(0)}",
    lambda s: f"{s.a(0)} alone {s.place}",
    lambda s: f"a picture of {s.a(0)} {s.place}",
    lambda s: f"{s.the(0)} is {s.place}",
]
_PAIR: list[Pattern] = [
    lambda s: f"{s.a(0)} {s.before} {s.a(1)}",
    lambda s: f"{s.a(1)} {s.after} {s.a(0)}",
    lambda s: f"there is {s.a(0)} {s.before} {s.a(1)}",
    lambda s: f"{s.the(1)} is {s.after} {s.the(0)}",
    lambda s: f"{s.a(0)} with {s.a(1)} {s.at_its(1)}",
    lambda s: f"{s.a(1)} with {s.a(0)} {s.at_its(0)}",
    lambda s: f"{s.a(0)} {s.end(0)} and {s.a(1)} {s.end(1)}",
    lambda s: f"{s.end(1)} stands {s.a(1)}, {s.end(0)} {s.a(0)}",
    lambda s: f"a picture of {s.a(0)} {s.before} {s.a(1)}",
]
_TRIO: list[Pattern] = [
    lambda s: f"{s.a(0)}, {s.a(1)} and {s.a(2)} {s.order(0)}",
    lambda s: f"{s.order(1)} {s.a(2)}, {s.a(1)} and {s.a(0)}",
    lambda s: f"{s.a(0)} {s.before} {s.a(1)} {s.before} {s.a(2)}",
    lambda s: f"{s.a(1)} between {s.a(0)} {s.end(0)} and {s.a(2)} {s.end(1)}",
    lambda s: f"there is {s.a(0)} {s.end(0)}, {s.a(1)} in the middle and {s.a(2)} {s.end(1)}",
    lambda s: f"three shapes {s.order(0)}: {s.a(0)}, {s.a(1)}, {s.a(2)}",
]


def _with_background(caption: str, background: str, rng: Random) -> str:
    chance = rng.random()
    if chance < 0.25:
        return f"{caption} on a {background} background"
    if chance < 0.4:
        return f"on {background}, {caption}"
    return caption
