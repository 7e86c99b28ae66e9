"""A source is listed once, ahead of its consumer, and the total is known when that has ended."""

import threading

import pytest

from clipline.embed.item import CellItem, Failure, FileItem
from clipline.embed.lister import listed
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel


class Items:
    """A source of the items given that counts how often it is listed."""

    root = "here"

    def __init__(self, items) -> None:
        self.items, self.walks = items, 0

    def __iter__(self):
        self.walks += 1
        yield from self.items


FAILURE = Failure("sub/", "scan", "Input/output error")
FILES = [FileItem(f"{number}.jpg", f"photos/{number}.jpg") for number in range(1543)]


def test_all_items_in_order_and_their_number():
    source, totals = Items([FAILURE, *FILES, FAILURE]), []
    with listed(source, totals.append) as items:
        assert list(items) == source.items
    assert totals == [len(source.items)]
    assert source.walks == 1


def test_the_total_is_known_before_the_first_item_is_taken():
    known = threading.Event()
    with listed(Items(FILES), lambda total: known.set()) as items:
        assert known.wait(10)
        assert len(list(items)) == len(FILES)


@pytest.mark.parametrize(("items", "reason"), [([], ""), ([FAILURE], r" \(sub/: Input/output error\)")])
def test_no_images(items, reason):
    with pytest.raises(UsageError, match=f"here: no images in it{reason}$"), listed(Items(items), print):
        pytest.fail("there is none")


def test_a_listing_that_breaks_ends_the_run_at_once(photos, bundle, tmp_path):
    """And not after all that was listed before: half a list would make images look removed."""

    class Breaks(Folder):
        def __iter__(self):
            yield from super().__iter__()
            raise CliplineError("the listing broke")

    with pytest.raises(CliplineError, match="the listing broke"):
        embed(Breaks(photos), OnnxModel(bundle, provider="cpu"), tmp_path / "out", Options())
    assert not (tmp_path / "out").exists()


def test_a_folder_is_listed_once(photos, bundle, tmp_path, monkeypatch):
    walks = []
    walk = Folder.__iter__
    monkeypatch.setattr(Folder, "__iter__", lambda folder: walks.append(folder) or walk(folder))
    embed(Folder(photos), OnnxModel(bundle, provider="cpu"), tmp_path / "out", Options())
    assert len(walks) == 1


def test_items_that_hold_their_images_are_not_listed_ahead():
    """A table of a million photos does not fit into memory."""
    taken = []
    source = Items(CellItem(f"t.parquet/{row}", b"x") for row in range(5000))
    source.items = (taken.append(item) or item for item in source.items)
    source.holds_images = True
    with listed(source, taken.append) as items:
        walk = iter(items)
        assert [next(walk).path for _ in range(3)] == ["t.parquet/0", "t.parquet/1", "t.parquet/2"]
        assert len(taken) == 3
