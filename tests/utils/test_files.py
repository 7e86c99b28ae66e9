"""A name holds the old content or all of the new, and a failed write leaves nothing; where the cache of the user is."""

from pathlib import Path

import pytest

from clipline.utils.files import atomic, atomic_folder, user_cache


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert [name[0] for name in names(tmp_path)] == [".", "a"]
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_two_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    with atomic(path) as first:
        first.write(b"first")
        monkeypatch.setattr("os.getpid", lambda: 1)
        with atomic(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        monkeypatch.undo()
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a.bin"]


def fill(folder, text):
    (folder / "a.txt").write_text(text)
    (folder / "b.txt").write_text(text)


def test_a_folder_appears_when_it_is_whole(tmp_path):
    out = tmp_path / "sub" / "out"
    for text in ("first", "second"):
        with atomic_folder(out) as folder:
            fill(folder, text)
            assert not out.exists() or (out / "a.txt").read_text() == "first"
        assert [(out / name).read_text() for name in names(out)] == [text, text]
        assert names(out.parent) == ["out"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_folder_leaves_the_old(tmp_path, error):
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        fill(folder, "old")
    with pytest.raises(error), atomic_folder(out) as folder:
        fill(folder, "half")
        raise error
    assert (out / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_what_a_kill_left_is_mended(tmp_path):
    """Killed between the two renames: the old folder has its temporary name, beside an incomplete new one."""
    out = tmp_path / "out"
    for name in (".out.old", ".out.partial"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, name)
    with pytest.raises(OSError), atomic_folder(out):
        assert (out / "a.txt").read_text() == ".out.old"
        assert names(tmp_path) == [".out.partial", "out"]
        raise OSError
    assert (out / "a.txt").read_text() == ".out.old"
    assert names(tmp_path) == ["out"]


def test_where_the_users_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == Path(tmp_path / ".cache" / "clipline")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert user_cache() == tmp_path / "x" / "clipline"
