"""The drawn scenes: the same for everyone, all different, and described correctly by their captions."""

import hashlib
import io
import itertools
import re
from random import Random

import numpy as np
import pytest
from PIL import Image

from clipline.data.sources import scene_captions, scenes
from clipline.errors import CliplineError

SOURCE = {"images": 60, "size": 64, "seed": 3}


def composed(count=4800, seed=0):
    return list(scenes.compose(count, Random(f"test {seed}")))


def test_the_same_seed_draws_the_same_bytes(fetch, tmp_path):
    first = fetch("scenes", None, SOURCE)
    first.folder.rename(tmp_path / "first")
    again = fetch("scenes", None, SOURCE)
    assert (again.images, again.rows) == (first.images, first.rows)
    assert (len(again.images), len(again.rows) - 1) == (60, 300)
    assert {Image.open(io.BytesIO(image)).size for image in again.images.values()} == {(64, 64)}
    again.folder.rename(tmp_path / "again")
    other = fetch("scenes", None, SOURCE | {"seed": 4})
    assert not set(other.images.values()) & set(first.images.values())


def test_scenes_and_words_do_not_change_by_accident():
    """Pinned: a change is a new dataset, and results from before it compare with none after."""
    rng = Random("clipline scenes 0")
    described = [(scene, scene_captions.describe(scene, rng)) for scene in scenes.compose(200, rng)]
    assert described[0][1][0] == "at the bottom stands a blue circle, at the top a red star on a black background"
    rounded = [[(*item[:3], round(item.x, 6), round(item.y, 6)) for item in scene.objects] for scene, _ in described]
    text = repr([rounded, [captions for _, captions in described]])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "eb740ba4dc1b3c1f"


def test_pixels_show_what_the_scene_says():
    for scene in composed(100):
        image = scenes.draw(scene, 96)
        assert image.getpixel((0, 0)) == scenes.BACKGROUNDS[scene.background]
        for item in scene.objects:
            spot = (item.x + item.diameter * 0.4, item.y) if item.shape == "ring" else (item.x, item.y)
            assert image.getpixel(tuple(map(int, spot))) == scenes.COLOURS[item.colour], item


def test_no_two_scenes_agree_in_what_captions_always_say():
    always_said = [
        (
            tuple(item[:2] for item in scene.objects),
            scene.layout,
            scene.objects[0].size * (len(scene.objects) == 1),
        )
        for scene in composed()
    ]
    assert len(set(always_said)) == 4800
    counts = [len(kinds) for kinds, _, _ in always_said]
    assert [counts.count(n) for n in (1, 2, 3)] == [240, 3840, 720]


def test_more_scenes_than_pairs_are_still_all_different():
    always_said = {(tuple(item[:2] for item in scene.objects), scene.layout) for scene in composed(20_000)}
    assert len(always_said) > 19_000  # lone shapes differ in their size as well


def test_every_caption_names_every_colour_and_shape():
    rng = Random("words")
    for scene in composed(400):
        captions = scene_captions.describe(scene, rng)
        assert len(set(captions)) == 5
        for caption in captions:
            named = re.sub(r"^on \w+, | on a \w+ background$", "", caption)
            found_words = re.findall(r"\w+", named.replace("disc", "circle").replace("box", "square"))
            for part in (0, 1):
                expected = sorted(item[part] for item in scene.objects)
                vocabulary = scenes.COLOURS if part == 0 else scenes.SHAPES
                assert sorted(word for word in found_words if word in vocabulary) == expected, caption


def test_a_caption_never_fits_the_scene_turned_round():
    """The same objects in another order or layout have no caption in common: every caption says the relation."""
    rng, objects = Random("turned"), next(scene for scene in composed(400) if len(scene.objects) == 2).objects
    turned = [scenes.Scene(order, axis, "grey") for order in (objects, objects[::-1]) for axis in scenes.AXES]
    captions = [{caption for _ in range(200) for caption in scene_captions.describe(scene, rng)} for scene in turned]
    assert all(not one & other for one, other in itertools.combinations(captions, 2))


def test_things_stand_as_the_layout_says_and_do_not_touch():
    for scene in composed(2000):
        axis = 0 if scene.layout == "across" else 1
        for one, other in itertools.pairwise(scene.objects):
            apart = [other.x - one.x, other.y - one.y]
            assert apart[axis] >= max((one.diameter + other.diameter) / 2 - 1, abs(apart[1 - axis]) - 1), scene


def test_few_words_and_clear_colours():
    rng = Random("few")
    text = " ".join(caption for scene in composed(1000) for caption in scene_captions.describe(scene, rng))
    assert 30 < len(set(re.findall(r"\w+", text))) < 80
    values = np.array([*scenes.COLOURS.values(), *scenes.BACKGROUNDS.values()], float)
    apart = np.linalg.norm(values[:, None] - values[None], axis=-1) + 999 * np.eye(len(values))
    assert apart.min() > 80


def test_expected_counts_are_checked(fetch):
    with pytest.raises(CliplineError, match="expected 61 images"):
        fetch("scenes", None, SOURCE, expect={"images": 61})
