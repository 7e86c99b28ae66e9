"""What `fetch` promises for every kind of source: whole or not at all, and nothing overwritten."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from clipline.data.sources import fetch as fetch_dataset
from clipline.errors import CliplineError
from tests.helpers import unprivileged

ROOT = Path(__file__).parents[3]
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "src")])

SOURCE = {"images": 10, "size": 32, "seed": 0}


@pytest.fixture
def places(tmp_path):
    return tmp_path / "data" / "raw", tmp_path / "cache" / "x"


def test_an_empty_output_folder_is_taken(data, places):
    out, cache = places
    out.mkdir(parents=True)
    assert fetch_dataset(data.settings("scenes", None, SOURCE), out, cache)["images"] == 10
    assert sorted(path.name for path in out.iterdir()) == ["captions.csv", "images", "source.json"]
    assert json.loads((out / "source.json").read_text())["captions"] == 50


@pytest.mark.parametrize("kind", ["file", "full folder", "link"])
def test_nothing_is_overwritten(kind, data, places):
    out, cache = places
    out.parent.mkdir()
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        out.symlink_to(out.parent)
    else:
        data.write_folder(out, {"mine.txt": b"mine"})
    with pytest.raises(CliplineError, match=r"[Rr]emove it"):
        fetch_dataset(data.settings("scenes", None, SOURCE), out, cache)
    assert kind == "link" or (out if kind == "file" else out / "mine.txt").read_text() == "mine"


@pytest.fixture
def anyone():
    """A folder that other users reach, and their rights for the test if it runs as root, whom no bit stops."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with unprivileged():
            yield folder


def test_a_read_only_output_fails_before_any_work(data, anyone):
    folder, cache = anyone / "data", anyone / "cache"
    if os.getuid() == 0:
        os.seteuid(0)
        folder.mkdir(mode=0o755)
        os.seteuid(65534)
    else:
        folder.mkdir(mode=0o555)
    with pytest.raises(CliplineError, match=f"{folder}: cannot write here: Permission denied"):
        fetch_dataset(data.settings("scenes", None, SOURCE), folder / "raw", cache / "x")
    assert not cache.exists()


def test_a_full_disk_is_one_line_and_publishes_nothing(data, places, monkeypatch):
    out, cache = places

    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CliplineError, match=r"source\.json: No space left on device"):
        fetch_dataset(data.settings("scenes", None, SOURCE), out, cache)
    assert not out.exists()


def test_another_file_system_gets_a_copy(data, places, monkeypatch):
    out, cache = places
    rename = Path.rename

    def across(self, target):
        if self.is_relative_to(cache) and not Path(target).is_relative_to(cache):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)
    fetch_dataset(data.settings("scenes", None, SOURCE), out, cache)
    assert len(list((out / "images").iterdir())) == 10
    assert [path.name for path in out.parent.iterdir()] == ["raw"]


def test_two_downloads_of_one_dataset_take_turns(data, places, capsys):
    out, cache = places
    cache.parent.mkdir()
    done = threading.Event()

    def work():
        fetch_dataset(data.settings("scenes", None, SOURCE), out, cache)
        done.set()

    with FileLock(f"{cache}.lock"):
        threading.Thread(target=work, daemon=True).start()
        assert not done.wait(1.0)
        assert not out.exists()
    assert done.wait(30)
    assert out.exists()
    assert "in use by another download" in capsys.readouterr().err


def test_the_stage_makes_data_raw_and_says_what_it_left_out(data, tmp_path):
    files = data.kaggle_layout() | {"Images/extra.jpg": data.photo(9)}
    files["captions.txt"] += b"1_a.jpg,A dog, wet\n"
    data.write_zip(tmp_path / "mine.zip", files)
    for name in ("configs", "params.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "configs/data/mine.yaml").write_text(
        "kind: archive\npath: mine.zip\nsource: {}\nexpect: {images: 3, captions: 7}\n"
        "captions: {}\nsplit: {kind: hash}\n"
    )
    params = (tmp_path / "params.yaml").read_text().replace("data: scenes", "data: mine")
    (tmp_path / "params.yaml").write_text(params)
    command = [sys.executable, "-m", "stages.download"]
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": PYTHONPATH}, "capture_output": True}
    done = subprocess.run(command, **options, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "data/raw: 3 images with 7 captions; left out: 1 images without caption; "
        "1 captions hold unquoted delimiters, the first in line 8\n"
    )
    assert {path.name for path in (tmp_path / "data/raw/images").iterdir()} == set(data.CAPTIONS)
    again = subprocess.run(command, **options, text=True, check=False)
    assert again.returncode == 1
    assert "not empty" in again.stderr
    assert "Traceback" not in again.stderr
