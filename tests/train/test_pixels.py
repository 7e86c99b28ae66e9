"""Pixels by row, from the device's memory and from the file."""

import numpy as np
import pytest
import torch

from clipline.data.prepared import Split
from clipline.train import pixels as module
from clipline.train.pixels import MEMORY_SHARE, PixelStore

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
COUNT, SIZE = 50, 6
BYTES = SIZE * SIZE * 3
# Rows in another order than the file's, one of them twice.
ROWS = np.array([7, 0, 19, 7, 3, 18])


@pytest.fixture
def split(tmp_path):
    """20 of the 50 images of a file."""
    everything = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", everything)
    rows = np.sort(np.random.default_rng(1).permutation(COUNT)[:20])
    return Split(
        name="train",
        images=np.load(tmp_path / "images.npy", mmap_mode="r"),
        image_rows=rows,
        image_names=[str(row) for row in rows],
        tokens=np.zeros((20, 4), np.int32),
        lengths=np.full(20, 4, np.int32),
        captions=["a caption"] * 20,
        caption_image=np.arange(20),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("free", [0, 10**9])
def test_gives_the_rows_in_the_order_asked(split, device, free):
    store = PixelStore(split, torch.device(device), free_bytes=free)
    assert store.resident == bool(free)
    for rows in (ROWS, np.arange(20), np.array([5]), np.array([], dtype=np.int64)):
        pixels = store(rows)
        assert pixels.device.type == device and pixels.dtype == torch.uint8 and pixels.is_contiguous()
        assert np.array_equal(pixels.cpu().numpy(), split.images[split.image_rows[rows]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("free", [0, 10**9])
def test_the_caller_may_change_the_pixels(split, device, free):
    store = PixelStore(split, torch.device(device), free_bytes=free)
    before = store(ROWS).clone()
    store(ROWS).zero_()
    assert torch.equal(store(ROWS), before)


def test_is_resident_only_where_a_share_of_the_free_memory_holds_it(split):
    enough = int(20 * BYTES / MEMORY_SHARE)
    assert PixelStore(split, CPU, free_bytes=enough).resident
    assert not PixelStore(split, CPU, free_bytes=enough - 8).resident


def test_the_cpu_reads_from_the_file(split):
    assert not PixelStore(split, CPU).resident


def test_memory_is_filled_in_parts(split, monkeypatch):
    monkeypatch.setattr(module, "COPY_BYTES", 3 * BYTES)
    pixels = PixelStore(split, CPU, free_bytes=10**9)(np.arange(20))
    assert np.array_equal(pixels.numpy(), split.images[split.image_rows])


@pytest.mark.parametrize("free", [0, 10**9])
def test_a_row_that_is_not_there(split, free):
    with pytest.raises(IndexError):
        PixelStore(split, CPU, free_bytes=free)(np.array([20]))
