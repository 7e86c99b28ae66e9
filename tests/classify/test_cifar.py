"""CIFAR-10, binary and python version, unpacked or not; the pickled one without unpickling."""

import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipline.classify import cifar
from clipline.classify.cifar import CLASSES, RECORD
from clipline.classify.labelled import open_labelled
from clipline.errors import CliplineError, UsageError


def planes() -> np.ndarray:
    """An image whose first pixel is (1, 2, 3), whose last but one (7, 8, 9), and which is grey else."""
    found = np.full((3, 32, 32), 100, np.uint8)
    found[:, 0, 0] = (1, 2, 3)
    found[:, 31, 30] = (7, 8, 9)
    return found


def binary(*classes: int) -> bytes:
    return b"".join(bytes([number]) + planes().tobytes() for number in classes)


def python(*classes: int) -> bytes:
    """A batch as Python 2's cPickle wrote it: a dict, the list in runs of 1,000, strings byte for byte."""
    runs = (classes[start : start + 1000] for start in range(0, len(classes), 1000))
    labels = b"".join(b"(" + b"".join(b"K" + bytes([each]) for each in run) + b"e" for run in runs)
    pixels = planes().tobytes() * len(classes)
    shape = b"M" + struct.pack("<H", len(classes)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(pixels))
        + pixels
        + b"tb"
    )
    name = b"U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
    return b"\x80\x02}q\x01(" + name + b"U\x06labelsq\x04]q\x05" + labels + b"U\x04dataq\x08" + array + b"u."


BATCH = {"bin": binary, "py": python}
ENDING = {"bin": ".bin", "py": ""}


@pytest.fixture(params=["bin", "py"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def unpacked(kind, tmp_path):
    """The folder as the archive unpacks it."""
    folder = tmp_path / "data" / f"cifar-10-batches-{kind}"
    folder.mkdir(parents=True)
    (folder / f"test_batch{ENDING[kind]}").write_bytes(BATCH[kind](3, 8, 8))
    for number in range(1, 6):
        (folder / f"data_batch_{number}{ENDING[kind]}").write_bytes(BATCH[kind](number, 9))
    (folder / "batches.meta.txt").write_text("airplane\n")
    return folder


def pack(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def paths(place, split=None) -> list[str]:
    found = open_labelled(place, split)
    assert found.classes == list(CLASSES)
    return [item.path for item in found.source]


def test_unpacked_packed_and_alone(kind, unpacked, tmp_path):
    test = f"test_batch{ENDING[kind]}"
    expected = [f"cat/{test}/00000", f"ship/{test}/00001", f"ship/{test}/00002"]
    packed = pack(unpacked, tmp_path / "cifar-10.tar.gz")
    for place in (unpacked, unpacked.parent, packed, unpacked / test):
        assert paths(place) == expected
    for place in (unpacked, packed):
        train = paths(place, "train")
        first = f"data_batch_1{ENDING[kind]}"
        assert len(train) == 10 and train[:2] == [f"automobile/{first}/00000", f"truck/{first}/00001"]
        with pytest.raises(UsageError, match="no split 'val'"):
            paths(place, "val")


def test_planes_become_pixels(unpacked):
    for item in open_labelled(unpacked).source:
        image = Image.open(io.BytesIO(item.read()))
        assert (image.size, image.mode) == ((32, 32), "RGB")
        assert [image.getpixel(at) for at in ((0, 0), (1, 0), (30, 31))] == [(1, 2, 3), (100, 100, 100), (7, 8, 9)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_looked_up_is_what_unpickling_gives(tmp_path):
    """The file of these tests is a true pickle, and its labels and pixels are those that are found without pickle."""
    classes = np.random.default_rng(0).integers(10, size=2300).tolist()
    data = python(*classes)
    whole = pickle.loads(data, encoding="bytes")
    assert whole[b"labels"] == classes and whole[b"data"].shape == (2300, 3072)
    (tmp_path / "test_batch").write_bytes(data)
    records = np.stack([item.record for item in cifar.Cifar(tmp_path, "test")])
    assert records[:, 0].tolist() == classes
    assert np.array_equal(records[:, 1:], whole[b"data"])


class Trap:
    """Unpickling it would end the tests."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CliplineError, match="test_batch is not a batch of CIFAR-10"):
        open_labelled(tmp_path)
    trapped = pickle.dumps(Trap(), 2)[2:-1]  # one more object, dropped before the batch
    (tmp_path / "test_batch").write_bytes(b"\x80\x02" + trapped + b"0" + python(3, 8)[2:])
    assert len(paths(tmp_path)) == 2


DAMAGED = {
    "bin": [b"", binary(1)[:-1], binary(1) + b"x", binary(10), binary(1)[1:], binary(3, 255)],
    "py": [b"", python(1)[:-100], python(1)[:60], python(10), b"U\x06labels", python(1).replace(b"(K", b"(KK")],
}


@pytest.mark.parametrize("number", range(6))
def test_a_damaged_batch(kind, unpacked, number):
    name = f"test_batch{ENDING[kind]}"
    (unpacked / name).write_bytes(DAMAGED[kind][number])
    with pytest.raises(CliplineError, match=f"{name} is not a batch of CIFAR-10, or cut short"):
        open_labelled(unpacked)


def test_a_huge_file_is_not_read_into_memory(unpacked, monkeypatch):
    monkeypatch.setattr(cifar, "MOST", 2 * RECORD)
    with pytest.raises(UsageError, match=r"none of test_batch, test_batch\.bin in it"):
        open_labelled(unpacked)


def test_a_damaged_archive(unpacked, tmp_path):
    packed = pack(unpacked, tmp_path / "cifar.tar.gz")
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(UsageError, match="nor an archive of CIFAR-10"):
        open_labelled(packed)
