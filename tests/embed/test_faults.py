"""Real processes under a full disk, a read-only folder and signals: the right exit code and no half files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import factories
from tests.helpers import UNPRIVILEGED

CLIPLINE = [sys.executable, "-c", "from clipline.cli import main; main()"]


def embed(photos: Path, bundle: Path, out: Path, *options: str) -> list[str]:
    return [*CLIPLINE, *arguments(photos, bundle, out), *options]


def arguments(photos: Path, bundle: Path, out: Path) -> list[str]:
    return ["embed", str(photos), "--model", str(bundle), "--out", str(out), "--provider", "cpu"]


def embed_here(photos: Path, bundle: Path, out: Path, *options: str) -> None:
    """What precedes and follows a fault, without a process of its own."""
    assert factories.run(*arguments(photos, bundle, out), *options).code == 0


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


@pytest.fixture
def many(tmp_path) -> Path:
    """3,000 names of one image large enough to take a few milliseconds: a run that a signal finds at work."""
    image = factories.save(tmp_path / "many" / "0.jpg", size=(800, 800))
    for index in range(1, 3000):
        os.link(image, image.with_name(f"{index}.jpg"))
    return image.parent


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix knows them")
@pytest.mark.parametrize(
    ("number", "code", "overwrite"),
    [
        (signal.SIGINT, 130, False),
        (signal.SIGINT, 130, True),
        (signal.SIGTERM, 143, True),
        (signal.SIGKILL, -9, False),
    ],
)
def test_signals(many, photos, bundle, tmp_path, number, code, overwrite):
    out = tmp_path / "place" / "out"
    if overwrite:
        embed_here(photos, bundle, out)
    before = sorted(path.name for path in out.parent.rglob("*")) if overwrite else []
    process = subprocess.Popen(
        embed(many, bundle, out, "--part-rows", "20", "--overwrite"), stderr=subprocess.PIPE, text=True
    )
    folder = "place/.out.partial" if overwrite else "place/out"
    while not list(tmp_path.glob(f"{folder}/data/part-00001.parquet")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in stderr
    if number != signal.SIGKILL:  # after which no process can tidy up
        assert leftovers(tmp_path) == []
    if overwrite:
        assert sorted(path.name for path in out.parent.rglob("*")) == before
        return
    sizes = [pq.read_metadata(part).num_rows for part in sorted(out.glob("data/part-*"))]
    assert 2 <= len(sizes) < 151
    assert set(sizes[:-1]) == {20}
    # What was embedded and not yet written is saved on the way out, unless there is no way out.
    assert sizes[-1] == 20 if number == signal.SIGKILL else 1 <= sizes[-1] <= 20
    embed_here(photos, bundle, out, "--overwrite")
    assert sorted(path.name for path in out.iterdir()) == ["data", "errors.parquet", "manifest.json"]


@pytest.mark.skipif(os.name != "posix", reason="resource limits as Unix knows them")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk(photos, bundle, tmp_path, overwrite):
    """Simulated by a limit on the size of files, which fails in the same call."""
    out = tmp_path / "out"
    if overwrite:
        embed_here(photos, bundle, out)
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} if overwrite else {}
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash"]
    done = run([*limited, *embed(photos, bundle, out, "--overwrite")])
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {tmp_path}/")
    assert "cannot be written: File too large. Fix: raise the limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert leftovers(tmp_path) == []
    if overwrite:
        assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    else:
        assert [path.name for path in out.rglob("*.*")] == ["manifest.json"]  # it says: not complete
    # A run with room goes on.
    embed_here(photos, bundle, out)
    assert len(factories.rows(out)) == 12


@pytest.mark.skipif(os.name != "posix", reason="permissions as Unix knows them")
@pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root without setpriv")
def test_a_read_only_folder(photos, bundle, tmp_path):
    parent = tmp_path / "place"
    embed_here(photos, bundle, parent / "old")
    before = {path.name: path.read_bytes() for path in (parent / "old").rglob("*") if path.is_file()}
    for folder in (parent / "old", parent):
        folder.chmod(0o555)
    try:
        new = run([*UNPRIVILEGED, *embed(photos, bundle, parent / "new")])
        over = run([*UNPRIVILEGED, *embed(photos, bundle, parent / "old", "--overwrite")])
    finally:
        for folder in (parent, parent / "old"):
            folder.chmod(0o755)
    for done, name, what in ((new, "new", "written"), (over, "old", "replaced")):
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("\n") == 1
        assert f"{name}: cannot be {what}: Permission denied. " in done.stderr
    assert [path.name for path in parent.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in (parent / "old").rglob("*") if path.is_file()} == before


@pytest.mark.skipif(os.name != "posix", reason="permissions as Unix knows them")
@pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root without setpriv")
def test_a_folder_that_may_not_be_read(photos, bundle, tmp_path):
    parent = tmp_path / "place"
    parent.mkdir(mode=0)
    done = run([*UNPRIVILEGED, *embed(photos, bundle, parent / "out")])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{parent / 'out'}: cannot be read: Permission denied. Fix: " in done.stderr
    program = "import sys; from pathlib import Path; from clipline.embed.destination import check; check(Path('place'))"
    done = run([*UNPRIVILEGED, sys.executable, "-c", program], cwd=tmp_path)
    assert "UsageError: place: cannot be read: Permission denied. Fix: " in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="permissions as Unix knows them")
@pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root without setpriv")
def test_images_that_may_not_be_read(photos, bundle, tmp_path):
    (photos / "red-0.png").chmod(0)
    (photos / "sub").chmod(0)
    try:
        done = run([*UNPRIVILEGED, *embed(photos, bundle, tmp_path / "out")])
    finally:
        (photos / "sub").chmod(0o755)
    assert done.returncode == 3, done.stderr
    assert factories.errors(tmp_path / "out") == [
        {"path": "red-0.png", "stage": "read", "reason": "Permission denied"},
        {"path": "sub/", "stage": "scan", "reason": "cannot list the folder: Permission denied"},
    ]
