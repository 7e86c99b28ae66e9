"""Standard streams that are missing, closed or full: real processes, whose work is done all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(os.name != "posix", reason="shells of Unix")
ROOT = Path(__file__).parents[2]
CLIPLINE = [sys.executable, "-c", "from clipline.cli import main; main()"]
ALL = "<&- >&- 2>&-"
LOST = "error: stdout: No space left on device: not all could be printed\n"


def shell(command: list[str], streams: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command with redirections of its streams; the exit code is the command's own."""
    script = f'set -o pipefail; "$@" {streams}'
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} | environment
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, command)], cwd=folder, capture_output=True, check=False, timeout=60,
        env=environment,
    )  # fmt: skip


def program(body: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        f"import os, sys\nfrom clipline.utils import entry\ndef main():\n {body}\nentry.run(main)",
    ]


@pytest.mark.parametrize(
    ("streams", "code", "words"),
    [
        (">&-", 0, "b\n"),
        ("2>&-", 0, ""),
        (ALL, 0, ""),
        (">/dev/full", 1, f"b\n{LOST}"),
        ("2>/dev/full", 1, ""),
        (">/dev/full 2>/dev/full", 1, ""),
        (">/dev/full 2>&-", 1, ""),
        ("| true", 0, "b\n"),
    ],
)
def test_what_is_done_does_not_depend_on_what_is_printed(streams, code, words, tmp_path):
    body = "open('a', 'w').write(sys.stdin.read()); print('a' * 99999, flush=True)"
    body += "; print('b', file=sys.stderr); os.mkdir('b')"
    done = shell(program(body), streams if "<" in streams else f"</dev/null {streams}", tmp_path)
    assert (done.returncode, done.stderr.decode()) == (code, words)
    assert (tmp_path / "a").read_text() == "" and (tmp_path / "b").is_dir()


def test_the_exit_code_of_an_error_stays(tmp_path):
    body = "print('a'); from clipline.errors import TooManyErrorsError; raise TooManyErrorsError('many')"
    for streams, words in ((">/dev/full", "error: many\n"), ("2>/dev/full", ""), (ALL, "")):
        done = shell(program(body), streams, tmp_path)
        assert (done.returncode, done.stderr.decode()) == (3, words)


def test_letters_that_an_encoding_lacks(tmp_path):
    """Names come out as their bytes, other letters as escapes; no byte that is not text reaches a terminal."""
    print_all = program(r"print('caf\udce9', '\u65e5', '\xe9')")
    done = shell(print_all, "", tmp_path, PYTHONIOENCODING="ascii")
    assert done.stdout == b"caf\xe9 \\u65e5 \\xe9\n"
    parent, child = os.openpty()
    subprocess.run(print_all, stdout=child, check=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert os.read(parent, 999).decode() == "caf\\xe9 日 é\r\n"
    os.close(child), os.close(parent)


def test_a_pipe_that_does_not_block_is_waited_for(tmp_path):
    done = shell(program("os.set_blocking(1, False); print('x' * 999_999)"), "| (sleep 0.2; wc -c)", tmp_path)
    assert (done.stdout.strip(), done.stderr) == (b"1000000", b"")


def test_commands(make_bundle, tmp_path):
    """A folder is embedded and a CSV complete without any stream, and where nobody reads."""
    make_bundle(tmp_path / "onnx")
    (tmp_path / "photos").mkdir()
    for number in range(12):
        Image.new("RGB", (20, 20), (250, 20 * number, 0)).save(tmp_path / "photos" / f"{number:02}.png")
    embed = [*CLIPLINE, "embed", "photos", "--model", "onnx", "--out", "index", "--precision", "auto"]
    assert shell(embed, ALL, tmp_path).returncode == 0
    files = [file.read_bytes() for file in (tmp_path / "index").rglob("*.*") if file.is_file()]
    assert len(files) >= 2 and not any(b"embeddings in" in data for data in files), "no file took a stream's place"
    done = shell([*CLIPLINE, "search", "index", "red", "-n", "12"], "| head -1", tmp_path)
    assert done.stdout.startswith(b"1\t") and done.stderr == b""
    done = shell([*CLIPLINE, "search", "index"], "<&-", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1
    command = [*CLIPLINE, "classify", "index", "--labels", "red,green", "--csv", "labels.csv"]
    assert shell(command, "| true", tmp_path).returncode == 0
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize(("streams", "code"), [(ALL, 0), (">/dev/full", 1)])
def test_stages(streams, code, tmp_path):
    body = (
        "from stages.common import run_stage, say\ndef main():\n say('a')\n open('b', 'w').write('b')\nrun_stage(main)"
    )
    done = shell([sys.executable, "-c", body], streams, tmp_path)
    assert (done.returncode, done.stderr.decode()) == (code, LOST * code)
    assert (tmp_path / "b").read_text() == "b"
