"""Trees with a folder for each class, in all the ways in which they are unpacked."""

import os
import tempfile
from pathlib import Path

import pytest

from clipline.classify.labelled import open_labelled
from clipline.errors import UsageError
from tests import factories
from tests.helpers import unprivileged


def classes_and_paths(folder, split=None) -> tuple[list[str], list[str]]:
    opened = open_labelled(folder, split)
    return opened.classes, [item.path for item in opened.source]


def tree(folder, *names):
    for name in names:
        factories.save(folder / name, "red", (8, 8))
    return folder


def test_a_folder_for_each_class(tmp_path):
    folder = tree(tmp_path / "tree", "cat/1.jpg", "cat/more/2.png", "golden_retriever/3.jpg", "beside.jpg")
    (folder / ".thumbnails").mkdir()
    (folder / "empty").mkdir()
    classes, paths = classes_and_paths(folder)
    assert classes == ["cat", "empty", "golden_retriever"]
    assert paths == ["cat/1.jpg", "cat/more/2.png", "golden_retriever/3.jpg"]
    opened = open_labelled(folder)
    assert opened.labels == ["cat", "empty", "golden retriever"]
    assert [opened.class_of(path) for path in paths] == [0, 0, 2]


def test_links_to_folders_above_and_machine_folders_are_no_classes(tmp_path):
    folder = tree(tmp_path / "tree", "cat/1.jpg", "dog/2.jpg")
    tree(folder, "@eaDir/1.jpg/thumbnail.jpg")
    for name, target in {"up": "..", "self": ".", "cats": "cat"}.items():
        (folder / name).symlink_to(target)
    assert classes_and_paths(folder)[0] == ["cat", "cats", "dog"]


@pytest.mark.parametrize("above", ["", "cifar10/", "cifar10/cifar10/"])
def test_splits(tmp_path, above):
    names = (f"tree/{above}{split}/{name}/1.png" for split in ("train", "test") for name in ("cat", "dog"))
    tree(tmp_path, *names, f"tree/{above}train/dog/2.png")
    folder = tmp_path / "tree"
    assert classes_and_paths(folder) == (["cat", "dog"], ["cat/1.png", "dog/1.png"])
    assert classes_and_paths(folder, "train")[1] == ["cat/1.png", "dog/1.png", "dog/2.png"]
    with pytest.raises(UsageError, match="no split 'val'; it has: test, train"):
        classes_and_paths(folder, "val")


def test_a_class_called_test_is_no_split(tmp_path):
    folder = tree(tmp_path / "tree", "test/1.jpg", "essay/1.jpg")
    assert classes_and_paths(folder)[0] == ["essay", "test"]
    with pytest.raises(UsageError, match="has classes, not splits"):
        classes_and_paths(folder, "test")


@pytest.mark.skipif(os.name != "posix", reason="permissions as Unix knows them")
def test_what_may_not_be_read():
    """A class's folder, and a parquet file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tree" / "cat").mkdir(parents=True)
        (folder / "test.parquet").write_bytes(b"")
        folder.chmod(0o755)
        (folder / "tree" / "cat").chmod(0)
        (folder / "test.parquet").chmod(0)
        for unreadable in (folder / "tree" / "cat", folder / "test.parquet"):
            opened = unreadable if unreadable.is_file() else unreadable.parent
            with unprivileged(), pytest.raises(UsageError, match=rf"^{unreadable}: .*Permission denied"):
                open_labelled(opened)


def test_nothing_labelled(tmp_path):
    folder = tree(tmp_path / "tree", "cat/1.jpg")
    with pytest.raises(UsageError, match="1 folder in it"):
        classes_and_paths(folder)
    with pytest.raises(UsageError, match="no such file or folder"):
        classes_and_paths(tmp_path / "none")
