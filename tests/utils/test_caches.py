"""The user's cache folder, as the environment names it."""

from pathlib import Path

from clipline.utils.files import user_cache


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == Path(tmp_path / ".cache" / "clipline")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert user_cache() == tmp_path / "x" / "clipline"
