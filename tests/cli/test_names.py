"""Names that hold anything: no line is broken, no terminal obeys one, and what programs read is exact."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clipline.classify import show
from clipline.classify.predict import Prediction
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.runtime.model import OnnxModel
from tests.factories import run as in_process

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows allows no such names")
CLIPLINE = [sys.executable, "-c", "from clipline.cli import main; main()"]
# Names of red images, and how a line shows them.
NAMES = {
    "a tab\t1.png": r"a tab\t1.png",
    "a line\n2.png": r"a line\n2.png",
    "\x1b[31m\x1b]0;title\x07.png": r"\x1b[31m\x1b]0;title\x07.png",
    "\x9b2J.png": r"\x9b2J.png",
    "\u202egnp.png": r"\u202egnp.png",
    "\u2028.png": r"\u2028.png",
    "back\\slash é 日.png": "back\\slash é 日.png",
    os.fsdecode(b"caf\xe9.png"): os.fsdecode(b"caf\xe9.png"),
}


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory) -> Path:
    """`photos`, all of them copies of a red image, and their embeddings in `index`."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "photos").mkdir()
    for name in NAMES:
        Image.new("RGB", (9, 9), "red").save(folder / "photos" / name)
    embed(Folder(folder / "photos"), OnnxModel(bundle, provider="cpu", threads=1), folder / "index", Options())
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return in_process


def process(folder: Path, *arguments: str) -> bytes:
    return subprocess.run([*CLIPLINE, *arguments], cwd=folder, capture_output=True, check=True).stdout


def columns(out: bytes) -> list[list[str]]:
    return [line.split("\t") for line in os.fsdecode(out).split("\n")[:-1]]


def test_lines(folder, run, bundle):
    shown = {f"photos/{name}" for name in NAMES.values()}
    rows = columns(process(folder, "search", "index", "a\tred\n"))
    assert {file for _, _, file, _ in rows} == shown
    assert {query for *_, query in rows} == {r"a\tred\n"}
    rows = columns(process(folder, "dupes", "index"))
    assert {file for *_, file in rows} == shown and {len(row) for row in rows} == {7}
    line = show.line(Prediction("", Path("photos/a tab\t1.png"), [("red\tor so\n", 1.0)]))
    assert line == "photos/a tab\\t1.png\tred\\tor so\\n\t1.0000"
    done = run("match", "photos/a line\n2.png", "--model", bundle, "--caption", "red\n", "--caption", "green")
    assert done.out.splitlines()[0].endswith(r"red\n") and done.out.count("\n") == 2


def test_a_terminal(folder):
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm", "PYTHONUTF8": "1"}
    for command in ("search", "dupes"):
        arguments = [*CLIPLINE, command, "index", *["red"] * (command == "search")]
        subprocess.run(arguments, cwd=folder, stdout=child, stderr=child, check=True, env=environment)
        text = os.read(parent, 1 << 16).decode()
        for shown in NAMES.values():
            assert shown.replace("\udce9", r"\xe9") in text
        assert "\x1b[31m" not in text and "\x1b]" not in text and "\x9b" not in text
    os.close(child), os.close(parent)


def test_print0_is_exact(folder, run):
    files = [os.fsencode(f"photos/{name}") for name in NAMES]
    assert sorted(process(folder, "search", "index", "red", "-0").split(b"\0")) == [b"", *sorted(files)]
    copies = process(folder, "dupes", "index", "--print0").split(b"\0")
    assert len(copies) == len(files) and set(copies) < {b"", *files}, "the one to keep is not among them"
    listed = subprocess.run(
        ["xargs", "-0", "stat", "-c", "%s"], cwd=folder, input=b"\0".join(copies), capture_output=True, check=True
    )
    assert len(listed.stdout.split()) == len(files) - 1
    assert run("dupes", "index", "--outliers", "2", "-0").out.count("\0") == 2
    for command in (("search", "index", "red"), ("dupes", "index")):
        assert run(*command, "-0", "--json").error == "--print0 and --json cannot both be used"


def test_json_and_csv_are_exact(folder, run):
    results = json.loads(run("search", "index", "red", "--json").out)[0]["results"]
    assert {result["file"] for result in results} == {f"photos/{name}" for name in NAMES}
    for command in (("dupes", "index"), ("classify", "index", "--labels", "red,green")):
        assert run(*command, "--csv", "out.csv", "--json").code == 0
        rows = csv.DictReader(io.StringIO((folder / "out.csv").read_text(encoding="utf-8"), newline=""))
        assert {row["path"] for row in rows} == {name.replace("\udce9", "%E9") for name in NAMES}


def test_errors_are_one_line(folder, run):
    for arguments in (
        ("search", "no\n\x1b[31mfolder", "red"),
        ("search", "index", "red", "--root", "no\nfolder"),
        ("search", "index", "--image", "no\nfile.png"),
        ("search", "index", "red", "--gallery", "no\npicture.pdf"),
        ("embed", "no\nfolder", "--model", "no\nmodel", "--out", "x"),
        ("classify", "no\nfile.png", "--labels", "a,b"),
        ("match", "--quiz", "no\nfile.csv"),
    ):
        error = run(*arguments).error
        assert error and "\n" not in error and "\x1b" not in error and r"\n" in error, arguments
