"""The official lists and the real dataset's captions, where a copy of it exists (it may not be in the repository)."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from clipline.config.dataset import CaptionRules, OfficialSplit
from clipline.data.captions import Caption, Dropped, filter_captions, read_captions, without_repeats
from clipline.data.images import absent_from
from clipline.data.splits import assigned

ARCHIVE = Path(__file__).parents[3] / "shared" / "flickr8k" / "flickr8k.zip"
pytestmark = pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"needs Flickr8k: {ARCHIVE}")


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> list[Caption]:
    path = tmp_path_factory.mktemp("flickr8k") / "captions.csv"
    with zipfile.ZipFile(ARCHIVE) as archive:
        path.write_bytes(archive.read("captions.txt"))
    return read_captions(path)


def test_the_lists_name_all_but_91_images(captions: list[Caption]) -> None:
    images = {caption.image for caption in captions}
    listed = assigned(OfficialSplit(kind="flickr8k"), captions)
    assert (len(captions), len(images), len(images - listed.keys())) == (40_455, 8_091, 91)
    assert absent_from(listed, images, 0.0) == []


def test_the_test_split_keeps_its_5000_captions(captions: list[Caption]) -> None:
    listed = assigned(OfficialSplit(kind="flickr8k"), captions)
    dropped = Dropped()
    kept = [caption for caption in filter_captions(captions, CaptionRules(), dropped) if caption.image in listed]
    kept = without_repeats(kept, listed, dropped)
    assert Counter(listed[caption.image] for caption in kept) == {"train": 29_988, "val": 5_000, "test": 5_000}
    assert dropped.counts == {"repeats another caption of its training image": 12}
