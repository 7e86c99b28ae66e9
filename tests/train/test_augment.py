"""Random changes of images and captions, checked on known images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import adjust_brightness, adjust_contrast, adjust_saturation

from clipline.config.augment import Augment
from clipline.config.base import validate
from clipline.data.prepared import Prepared, Split
from clipline.errors import UsageError
from clipline.model.clip import build_model
from clipline.train.augment import (
    RANDOMS,
    SIDES,
    Augmentation,
    change_images,
    draw_changes,
    drop_tokens,
    names_a_side,
)

IMAGES, SIZE, LONGEST, PAD = 64, 40, 10, 0


pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**values):
    return validate(Augment, values, "train.augment")


def smooth(count=IMAGES, size=SIZE):
    """uint8 [count, size, size, 3]: random smooth images, all different."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(3)) * 255
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@pytest.fixture
def split():
    """64 images with a caption each; every fourth caption names a side."""
    captions = ["a man on the left" if index % 4 == 0 else "a dog runs" for index in range(IMAGES)]
    lengths = np.arange(IMAGES, dtype=np.int32) % (LONGEST - 1) + 2
    ids = np.arange(IMAGES * LONGEST, dtype=np.int32).reshape(IMAGES, LONGEST) + 100
    tokens = np.where(np.arange(LONGEST) < lengths[:, None], ids, PAD).astype(np.int32)
    return Split(
        name="train",
        images=smooth().numpy(),
        image_rows=np.arange(IMAGES),
        image_names=[f"{index}.png" for index in range(IMAGES)],
        tokens=tokens,
        lengths=lengths,
        captions=captions,
        caption_image=np.arange(IMAGES),
    )


@pytest.fixture
def change(split):
    """change(seed=0, **settings) -> the split's images, changed."""

    def run(seed=0, **values):
        return Augmentation(settings(**values), split, seed).images(smooth(), np.arange(IMAGES))

    return run


EVERYTHING = {
    "crop": {"scale": [0.4, 1.0]},
    "flip": 0.5,
    "colour": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
    "word_dropout": 0.3,
}


def difference(one, other):
    """int [B]: the largest difference of grey levels in each image."""
    return (one.int() - other.int()).abs().flatten(1).amax(1)


# ---------------------------------------------------------------- images


def test_the_defaults_change_nothing_and_draw_nothing(split):
    augmentation, pixels = Augmentation(settings(), split, 0), smooth()
    before = augmentation.generator.get_state()
    assert augmentation.images(pixels, np.arange(IMAGES)) is pixels
    inputs = torch.from_numpy(split.tokens).long(), torch.from_numpy(split.tokens > 0).long()
    assert augmentation.texts(inputs) is inputs
    assert torch.equal(before, augmentation.generator.get_state())


def test_cached_features_are_returned_unchanged(split):
    augmentation, features = Augmentation(settings(**EVERYTHING), split, 0), torch.rand(4, 8)
    assert augmentation.images(features, np.arange(4)) is features and augmentation.texts(features) is features


def test_flip_mirrors_exactly_and_never_where_a_caption_names_a_side(change):
    changed, pixels = change(flip=1.0), smooth()
    guarded = torch.arange(IMAGES) % 4 == 0
    assert torch.equal(changed[guarded], pixels[guarded])
    assert torch.equal(changed[~guarded], pixels[~guarded].flip(2))
    assert changed.dtype == torch.uint8 and changed.is_contiguous() and changed.shape == pixels.shape


def test_flip_with_a_probability_mirrors_that_share(split):
    rows = np.full(1000, 1)
    pixels = smooth(2, 8)[1:].expand(1000, -1, -1, -1)
    changed = Augmentation(settings(flip=0.3), split, 0).images(pixels, rows)
    mirrored = (changed == pixels.flip(2)).flatten(1).all(1)
    assert torch.equal(changed[~mirrored], pixels[~mirrored]) and 0.25 < mirrored.float().mean() < 0.35


def test_a_crop_of_everything_is_the_image(change):
    assert difference(change(crop={"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}), smooth()).max() <= 1


def seen(scale, ratio):
    """Left, top, width and height of 500 crops, read from images whose red is x and whose green is y."""
    ramp = torch.arange(256).to(torch.uint8)
    pixels = torch.zeros(256, 256, 3, dtype=torch.uint8)
    pixels[..., 0], pixels[..., 1] = ramp, ramp[:, None]
    rows, out = np.zeros(500, dtype=np.int64), []
    split_ = Split(
        "train",
        np.empty(0),
        np.zeros(1, np.int64),
        [""],
        np.zeros((1, 4), np.int32),
        np.array([4]),
        [""],
        np.zeros(1, np.int64),
    )
    augmentation = Augmentation(settings(crop={"scale": scale, "ratio": ratio}), split_, 0)
    for some in np.array_split(rows, 10):
        out.append(augmentation.images(pixels.expand(len(some), -1, -1, -1), some))
    changed = torch.cat(out).double()
    # From two columns far apart: at the edge, samples are clamped to the image's border.
    width, height = ((changed[:, 228, 228, c] - changed[:, 28, 28, c]) / 200 for c in (0, 1))
    left, top = ((changed[:, 128, 128, c] + 0.5) / 256 - size * 128.5 / 256 for c, size in ((0, width), (1, height)))
    # Nothing is rotated or sheared.
    assert (changed[:, :, :, 0] - changed[:, :1, :, 0]).abs().max() <= 1
    return left, top, width, height


@pytest.mark.parametrize(("scale", "ratio"), [([0.3, 0.9], [0.75, 4 / 3]), ([0.2, 0.4], [1.0, 1.0])])
def test_crops_keep_to_their_areas_and_ratios_and_stay_inside(scale, ratio):
    left, top, width, height = seen(scale, ratio)
    area, shape = width * height, width / height
    assert area.min() > scale[0] - 0.015 and area.max() < scale[1] + 0.015
    assert area.min() < scale[0] + 0.02 and area.max() > scale[1] - 0.02
    assert abs(area.mean() - sum(scale) / 2) < 0.02
    assert shape.min() > ratio[0] - 0.03 and shape.max() < ratio[1] + 0.03
    assert min(left.min(), top.min()) > -0.01 and max((left + width).max(), (top + height).max()) < 1.01
    free = 1 - width
    positions = left[free > 0.2] / free[free > 0.2]
    assert positions.min() < 0.1 and positions.max() > 0.9 and abs(positions.mean() - 0.5) < 0.05


def test_crops_have_no_dark_border(split):
    white = torch.full((IMAGES, SIZE, SIZE, 3), 255, dtype=torch.uint8)
    augmentation = Augmentation(settings(crop={"scale": [0.1, 1.0]}, flip=0.5), split, 0)
    assert torch.equal(augmentation.images(white, np.arange(IMAGES)), white)


def test_colours_change_as_in_torchvision():
    """Brightness, then contrast, then saturation, by known factors, on images that need no clamping."""
    count = 50
    config = settings(colour={"brightness": 0.2, "contrast": 0.3, "saturation": 0.4})
    random = torch.rand(count, RANDOMS, generator=torch.Generator().manual_seed(1))
    random[:8, 5:8] = torch.tensor([[i >> 2, i >> 1 & 1, i & 1] for i in range(8)]).float()  # the extremes of each
    factors = 1 + torch.tensor([0.2, 0.3, 0.4]) * (2 * random[:, 5:8] - 1)
    pixels = (smooth(count).float() * 0.2 + 90).to(torch.uint8)
    none = torch.zeros(count, dtype=torch.bool)
    changed = change_images(pixels, draw_changes(config, random, none), config)
    for image, picture, by in zip(changed, pixels.permute(0, 3, 1, 2).double() / 255, factors.tolist(), strict=True):
        expected = adjust_saturation(adjust_contrast(adjust_brightness(picture, by[0]), by[1]), by[2])
        # torchvision's weights of red, green and blue add up to 0.9999.
        assert (image.permute(2, 0, 1) - 255 * expected).abs().max() < 0.52
        assert expected.min() > 0 and expected.max() < 1


@pytest.mark.parametrize(("name", "column"), [("brightness", 5), ("contrast", 6), ("saturation", 7)])
def test_each_strength_changes_its_own_factor(name, column):
    """A strength of 0.5 draws factors from 0.5 to 1.5 and leaves the other factors at 1."""
    random = torch.rand(200, RANDOMS, generator=torch.Generator().manual_seed(1))
    light = draw_changes(settings(colour={name: 0.5}), random, torch.zeros(200, dtype=torch.bool)).light_B3
    factor = 0.5 + random[:, column]
    one, none = torch.ones(200), torch.zeros(200)
    expected = {
        "brightness": [factor, none, none],
        "contrast": [factor, none, 1 - factor],
        "saturation": [factor, one - factor, none],
    }[name]
    assert torch.allclose(light, torch.stack(expected, 1), atol=1e-6) and factor.min() < 0.52 and factor.max() > 1.48


# ---------------------------------------------------------------- random numbers


def batches(augmentation, split, count):
    """The next `count` changed batches of everything, joined."""
    ids, mask = torch.from_numpy(split.tokens).long(), torch.from_numpy(split.tokens > 0).long()
    rows, out = np.arange(8), []
    for _ in range(count):
        out += [augmentation.images(smooth(8), rows), *augmentation.texts((ids, mask))]
    return torch.cat([tensor.flatten().long() for tensor in out])


def test_a_seed_repeats_and_another_differs(split):
    one, two, other = (Augmentation(settings(**EVERYTHING), split, seed) for seed in (5, 5, 6))
    first = batches(one, split, 3)
    assert torch.equal(first, batches(two, split, 3))
    assert not torch.equal(first, batches(other, split, 3)) and not torch.equal(first, batches(one, split, 3))


def test_a_restored_state_draws_the_same_numbers(split):
    one, two = (Augmentation(settings(**EVERYTHING), split, seed) for seed in (5, 99))
    batches(one, split, 2)
    state = one.generator.get_state()
    expected = batches(one, split, 2)
    two.generator.set_state(state)
    assert torch.equal(expected, batches(two, split, 2))


def test_the_number_of_processes_changes_nothing(split):
    rows, pixels = np.arange(IMAGES), smooth()
    texts = torch.from_numpy(split.tokens).long(), torch.from_numpy(split.tokens > 0).long()
    alone, part = (Augmentation(settings(**EVERYTHING), split, 5) for _ in range(2))
    expected, (ids, mask) = alone.images(pixels, rows), alone.texts(texts)
    assert torch.equal(part.images(pixels[40:], rows[40:], first=40, batch_rows=IMAGES), expected[40:])
    # This process's captions are shorter: its batch is cut elsewhere.
    short = [index for index in range(9) if split.lengths[index] <= 6]
    some = tuple(tensor[: len(short), :6] for tensor in texts)
    actual = part.texts(some, first=0, batch_rows=IMAGES)
    assert torch.equal(actual[0], ids[: len(short), :6]) and torch.equal(actual[1], mask[: len(short), :6])
    assert torch.equal(part.generator.get_state(), alone.generator.get_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_images(split):
    cpu, gpu = (Augmentation(settings(**EVERYTHING), split, 5) for _ in range(2))
    expected, actual = cpu.images(smooth(), np.arange(IMAGES)), gpu.images(smooth().cuda(), np.arange(IMAGES))
    assert actual.is_cuda and difference(actual.cpu(), expected).max() <= 1
    ids, mask = torch.from_numpy(split.tokens).long(), torch.from_numpy(split.tokens > 0).long()
    for one, other in zip(cpu.texts((ids, mask)), gpu.texts((ids.cuda(), mask.cuda())), strict=True):
        assert torch.equal(one, other.cpu())
    assert torch.equal(cpu.generator.get_state(), gpu.generator.get_state())


def test_one_setting_does_not_change_what_another_draws(change):
    """Two trainings that differ in one setting otherwise see the same changes."""
    cropped = change(crop={"scale": [0.3, 1.0]})
    both = change(crop={"scale": [0.3, 1.0]}, flip=1.0)
    mirrored = torch.arange(IMAGES) % 4 != 0
    assert torch.equal(both[~mirrored], cropped[~mirrored])
    assert difference(both[mirrored], cropped[mirrored].flip(2)).max() <= 1


# ---------------------------------------------------------------- texts


def test_words_are_dropped_with_their_probability(split):
    augmentation = Augmentation(settings(word_dropout=0.3), split, 0)
    ids, mask = torch.from_numpy(split.tokens).long(), torch.from_numpy(split.tokens != PAD).long()
    left = total = 0
    for _ in range(50):
        actual, kept = augmentation.texts((ids, mask))
        for row in range(IMAGES):
            before, after = ids[row, : split.lengths[row]].tolist(), actual[row][kept[row].bool()].tolist()
            assert after[0] == before[0] and after[-1] == before[-1]
            assert after == sorted(set(after) & set(before)), "another order, or other words"
            assert (actual[row, len(after) :] == PAD).all()
            left, total = left + len(after) - 2, total + len(before) - 2
    assert left / total == pytest.approx(0.7, abs=0.02)


def test_remaining_tokens_move_left_between_the_first_and_the_last():
    ids = torch.tensor([[1, 11, 12, 13, 2, 0], [1, 21, 2, 0, 0, 0], [1, 31, 32, 33, 34, 2]])
    drop = torch.tensor([[1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    actual, mask = drop_tokens(ids, (ids > 0).long(), drop, pad=0)
    assert actual.tolist() == [[1, 11, 13, 2, 0, 0], [1, 2, 0, 0, 0, 0], [1, 31, 32, 33, 34, 2]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert actual.dtype == mask.dtype == torch.int64


def test_dropped_tokens_do_not_affect_the_embedding(prepared, make_recipe):
    """A caption with dropped tokens embeds as the shorter caption does."""
    data = Prepared(prepared)
    train = data.split("train")
    torch.manual_seed(0)
    model = build_model(make_recipe(), data.vocab_size).eval()
    ids, length = torch.from_numpy(train.tokens[:1]).long(), int(train.lengths[0])
    mask = (torch.arange(ids.shape[1]) < length).long()[None]
    drop = torch.zeros_like(ids).bool()
    drop[0, 2] = True
    short = torch.cat([ids[:, :2], ids[:, 3:length]], dim=1)
    with torch.inference_mode():
        actual = model.encode_text(*drop_tokens(ids, mask, drop, pad=0))
        assert torch.allclose(actual, model.encode_text(short, torch.ones_like(short)), atol=1e-6)
        assert not torch.allclose(actual, model.encode_text(ids, mask), atol=1e-4)


# ---------------------------------------------------------------- captions that name a side


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("A man on the LEFT side .", True),
        ("turning right", True),
        ("the left-hand door", True),
        ("a lefthanded batter", True),
        ("the rightmost child looks leftwards", True),
        ("Right: a dog", True),
        ("a bright upright cleft in the rock", False),
        ("leftovers on a plate, copyrighted", False),
        ("", False),
    ],
)
def test_words_that_name_a_side(caption, names):
    assert (SIDES.search(caption) is not None) == names


def test_one_caption_that_names_a_side_prevents_the_flip(prepared):
    train = Prepared(prepared).split("train")
    guarded = names_a_side(train)
    says = {
        image
        for image, text in zip(train.caption_image, train.captions, strict=True)
        if "left" in text or "right" in text
    }
    assert set(np.flatnonzero(guarded)) == says and 0 < len(says) < len(guarded)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crop": {"scale": [0.9, 0.5]}}, "should be [min, max], found [0.9, 0.5]"),
        ({"crop": {"scale": [0.0, 1.0]}}, "greater than 0"),
        ({"crop": {"scale": [0.5, 1.0], "ratio": [1.2, 1.4]}}, "around 1"),
        ({"crop": {}}, "crop.scale: this key is required"),
        ({"erase": {"probability": 0.5}}, "`erase` was removed: only null is still accepted"),
        ({"grey": 0.2}, "`grey` was removed: only 0.0 is still accepted"),
        ({"synonyms": {"groups": [["child", "kid"]]}}, "`synonyms` was removed: only null is still accepted"),
        ({"colour": {"hue": 0.1}}, "unknown key `hue`"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"word_dropout": 1.0}, "less than 1"),
    ],
)
def test_wrong_settings_say_what_is_wrong(values, words):
    with pytest.raises(UsageError) as caught:
        settings(**values)
    assert words in str(caught.value)


def test_removed_settings_are_accepted_at_their_defaults():
    assert settings(flip=0.5, grey=0.0, erase=None, synonyms=None) == settings(flip=0.5)
