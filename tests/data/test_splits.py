"""Splits are by image, stable, and never share a picture."""

from __future__ import annotations

from collections import Counter

import pytest

from clipline.config.dataset import HashSplit
from clipline.data import splits
from clipline.data.captions import Caption
from clipline.errors import CliplineError


def unique(count: int) -> dict[str, bytes]:
    return {f"{number}.jpg": f"pixels {number}".encode() for number in range(count)}


def hash_split(**settings: float) -> HashSplit:
    return HashSplit(kind="hash", **settings)


def test_official_lists_are_flickr8k() -> None:
    official = splits.official()
    assert Counter(official.values()) == {"train": 6000, "val": 1000, "test": 1000}
    assert official["2513260012_03d33305cf.jpg"] == "train"
    assert official["2090545563_a4e66ec76b.jpg"] == "val"
    assert official["3385593926_d3e9c21170.jpg"] == "test"


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"val": 0.1, "test": 0.2}, {"train": 70, "val": 10, "test": 20}),
        ({"val": 7, "test": 13}, {"train": 80, "val": 7, "test": 13}),
        ({"val": 0.25, "test": 1}, {"train": 74, "val": 25, "test": 1}),
        ({"val": 98, "test": 1}, {"train": 1, "val": 98, "test": 1}),
    ],
)
def test_hash_sizes(settings: dict[str, float], sizes: dict[str, int]) -> None:
    assert Counter(splits.by_hash(unique(100), hash_split(**settings)).values()) == sizes


def test_hash_depends_on_names_and_seed_alone() -> None:
    digests = unique(50)
    backwards = dict(reversed(digests.items()))
    repainted = {name: b"other " + digest for name, digest in digests.items()}
    first = splits.by_hash(digests, hash_split(seed=1))
    assert splits.by_hash(backwards, hash_split(seed=1)) == first
    assert splits.by_hash(repainted, hash_split(seed=1)) == first
    assert splits.by_hash(digests, hash_split(seed=2)) != first


def test_hash_is_the_same_on_every_machine() -> None:
    chosen = splits.by_hash(unique(10), hash_split(val=2, test=2))
    # The order of `printf '0:N.jpg' | sha256sum` for N from 0 to 9.
    assert [chosen[f"{number}.jpg"] for number in (2, 8, 9, 3)] == ["test", "test", "val", "val"]


def test_hash_sends_all_copies_to_train_and_keeps_the_sizes() -> None:
    digests = unique(100)
    for number in range(0, 60, 2):
        digests[f"{number}.jpg"] = digests[f"{number + 1}.jpg"]
    chosen = splits.by_hash(digests, hash_split(val=15, test=20))
    assert Counter(chosen.values()) == {"train": 65, "val": 15, "test": 20}
    assert {chosen[f"{number}.jpg"] for number in range(60)} == {"train"}
    assert splits.prove_disjoint((name, chosen[name], digest) for name, digest in digests.items()) == 70


@pytest.mark.parametrize("settings", [{"val": 50, "test": 50}, {"val": 101, "test": 1}, {"val": 0.5, "test": 50}])
def test_hash_leaves_something_for_train(settings: dict[str, float]) -> None:
    with pytest.raises(CliplineError, match=r"of 100 images.*must be left for train"):
        splits.by_hash(unique(100), hash_split(**settings))


def test_hash_wants_unique_images_for_evaluation() -> None:
    with pytest.raises(CliplineError, match=r"ask for 2 of 10 images, 0 of which have no copy"):
        splits.by_hash(dict.fromkeys(unique(10), b"one picture"), hash_split(val=1, test=1))


def row(image: str, split: str | None, line: int) -> Caption:
    return Caption(image, "text", split, line)


def test_column_reads_all_spellings_and_leaves_empty_cells_out() -> None:
    cells = ["train", "val", "valid", "validation", "test", " TEST ", ""]
    found = splits.by_column(row(f"{number}.jpg", cell, number) for number, cell in enumerate(cells))
    assert list(found.values()) == ["train", "val", "val", "val", "test", "test"]
    assert "6.jpg" not in found


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([("a.jpg", None)], "no column `split`"),
        ([("a.jpg", "train"), ("b.jpg", "dev")], "line 3: split 'dev' is unknown; allowed: train, val"),
        (
            [("a.jpg", "train"), ("a.jpg", "test")],
            "a.jpg is in two splits: 'train' in line 2, 'test' in line 3",
        ),
        ([("a.jpg", "val"), ("a.jpg", "validation"), ("a.jpg", "")], "in two splits: 'val' in line 2, '' in line 4"),
        ([("a.jpg", "val"), ("a.jpg", "")], "a.jpg is in two splits: 'val' in line 2, '' in line 3"),
    ],
)
def test_column_errors(rows: list[tuple[str, str | None]], wanted: str) -> None:
    with pytest.raises(CliplineError) as caught:
        splits.by_column(row(image, split, line) for line, (image, split) in enumerate(rows, start=2))
    assert wanted in str(caught.value)


def test_copies_leave_the_split_that_comes_later() -> None:
    copies = splits.Copies()
    order = [
        ("t1", "test", b"x"),
        ("t2", "test", b"x"),
        ("v1", "val", b"x"),
        ("v2", "val", b"y"),
        ("r", "train", b"y"),
    ]
    assert [copies.admit(*one) for one in order] == [True, True, False, True, False]
    assert copies.across == {"v1": "t1", "r": "v2"}
    assert copies.within == {"t2": "t1"}


GOOD = [("a", "train", b"1"), ("b", "val", b"2"), ("c", "test", b"3")]


def test_proof_counts_pictures() -> None:
    assert splits.prove_disjoint([*GOOD, ("d", "train", b"1")]) == 3


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([*GOOD, ("a", "test", b"4")], "a is in the data twice: in train and test"),
        ([*GOOD, ("d", "test", b"1")], r"d \(test\) and a \(train\) are the same picture"),
        (GOOD[:2], r"no image is left for test \(train 1, val 1, test 0\)"),
        ([], "no image is left for train and val and test"),
    ],
)
def test_proof_fails(rows: list[tuple[str, str, bytes]], wanted: str) -> None:
    with pytest.raises(CliplineError, match=wanted):
        splits.prove_disjoint(rows)
