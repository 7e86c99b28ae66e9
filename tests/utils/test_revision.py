"""The commit, and the fingerprint of the code."""

import shutil

from clipline.utils import revision


def test_code_fingerprint(tmp_path, monkeypatch):
    home = tmp_path / "clipline"
    (home / "model").mkdir(parents=True)
    (home / "model" / "tower.py").write_text("one = 1\n")
    (home / "losses.py").write_text("two = 2\n")
    monkeypatch.setattr(revision, "__file__", str(home / "utils" / "revision.py"))
    parts = ("model", "losses.py")
    names = [revision.code_fingerprint(*parts)]
    (home / "losses.py").write_text("two = 3\n")
    names.append(revision.code_fingerprint(*parts))
    shutil.move(home / "model" / "tower.py", home / "model" / "other.py")
    names.append(revision.code_fingerprint(*parts))
    monkeypatch.setattr(revision.metadata, "version", lambda name: f"{name} 0")
    names.append(revision.code_fingerprint(*parts))
    assert len(set(names)) == len(names)
    (home / "other.py").write_text("of no part\n")
    assert revision.code_fingerprint(*parts) == names[-1]
