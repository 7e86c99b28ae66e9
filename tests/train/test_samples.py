"""Which captions a sampler draws."""

from types import SimpleNamespace

import numpy as np
import pytest

from clipline.train.samples import Sampler

# Image 0 has captions 0 and 3, image 1 has 1, 2 and 4, image 2 has 5.
CAPTION_IMAGE = np.array([0, 1, 1, 0, 1, 2])


@pytest.fixture
def split():
    return SimpleNamespace(caption_image=CAPTION_IMAGE, image_rows=np.arange(3))


def drawn(sampler):
    pairs = [
        (image, caption)
        for images, captions in sampler.epoch()
        for image, caption in zip(images, captions, strict=True)
    ]
    assert all(CAPTION_IMAGE[caption] == image for image, caption in pairs)
    return pairs


def test_every_caption_once_an_epoch(split):
    sampler = Sampler(split, "every", 2, seed=0)
    assert sampler.steps == 3
    first, second = drawn(sampler), drawn(sampler)
    assert sorted(caption for _, caption in first) == list(range(6)) and first != second


def test_random_draws_one_caption_of_each_image_anew(split):
    sampler = Sampler(split, "random", 3, seed=0)
    epochs = [drawn(sampler) for _ in range(40)]
    assert all(sorted(image for image, _ in epoch) == [0, 1, 2] for epoch in epochs)
    assert {caption for epoch in epochs for _, caption in epoch} == set(range(6))


def test_once_keeps_its_captions(split):
    sampler = Sampler(split, "once", 3, seed=0)
    assert len({frozenset(drawn(sampler)) for _ in range(10)}) == 1
    assert len({frozenset(drawn(Sampler(split, "once", 3, seed=seed))) for seed in range(20)}) > 1


def test_short_last_batch_is_left_out_unless_it_is_the_only_one(split):
    assert [len(images) for images, _ in Sampler(split, "every", 4, seed=0).epoch()] == [4]
    assert [len(images) for images, _ in Sampler(split, "every", 100, seed=0).epoch()] == [6]


def test_a_seed_repeats(split):
    one, two = (Sampler(split, "random", 1, seed=7) for _ in range(2))
    assert [drawn(one) for _ in range(5)] == [drawn(two) for _ in range(5)]
