"""`clipline search` as users run it: queries of every kind, a prompt in a terminal, and nothing heavy imported."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from clipline.cli import main

CLIPLINE = [sys.executable, "-c", "from clipline.cli import main; main()"]
HEAVY = {"torch", "mlflow", "dvc", "matplotlib", "gradio", "transformers", "timm", "onnx", "pandas", "datasets"}


class Done(NamedTuple):
    """The result of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(embedded, tmp_path, monkeypatch, capfd):
    """run(*arguments, stdin=b"") -> the result of the entry point, run in the folder of `index` and `photos`."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["clipline", "search", "index", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main()
        return Done(end.value.code or 0, *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


def results(done) -> list[tuple[str, str]]:
    """(file, query) of each line."""
    assert done.returncode == 0, done.stderr
    return [tuple(line.split("\t")[2:]) for line in done.stdout.splitlines()]


def test_queries_of_every_kind_in_their_order(run, tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffgreen\r\n\r\n  a blue picture \n", encoding="utf-8")
    done = run("red", "--queries", "list.txt", "--image", "photos/sky.png", "-n", "1")
    assert results(done) == [
        ("photos/deep/red.png", "red"),
        ("photos/green.png", "green"),
        ("photos/blue.png", "a blue picture"),
        ("photos/sky.png", "photos/sky.png"),
    ]
    assert results(run("--queries", "-", "-n", "1", stdin=b"blue\nred\n")) == [
        ("photos/blue.png", "blue"),
        ("photos/deep/red.png", "red"),
    ]


def test_a_file_among_words_is_noted(run):
    assert "note: `scan.TIFF` is taken for words" in run("scan.TIFF", "-n", "1").stderr
    done = run("--image", "photos/sky.png", "photos/red.png", "-n", "1")
    assert [query for _, query in results(done)] == ["photos/red.png", "photos/sky.png"]
    assert "note: `photos/red.png` is taken for words; for images like that one: --image photos/red.png" in done.stderr


def test_not(run):
    # Sky is blue with some green in it: less green leaves blue alone.
    assert [file for file, _ in results(run("blue", "green", "--not", "red", "-n", "1"))] == [
        "photos/sky.png",
        "photos/green.png",
    ]
    assert [file for file, _ in results(run("blue", "--not", "green", "-n", "1"))] == ["photos/blue.png"]
    done = run("red", "--not", "red")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is left" in done.stderr


def test_min_score(run):
    done = run("red", "blue", "--min-score", "0.99")
    assert results(done) == [
        ("photos/deep/red.png", "red"),
        ("photos/deep/rose.png", "red"),
        ("photos/blue.png", "blue"),
    ]
    done = run("a red blue picture", "--min-score", "0.9")
    assert results(done) == []
    assert "note: `a red blue picture`: no image reaches 0.9; the best has 0." in done.stderr


def test_json_tells_words_from_images(run):
    answers = json.loads(run("red", "--image", "photos/blue.png", "-n", "1", "--not", "green", "--json").stdout)
    assert all(answer["not"] == ["green"] for answer in answers)
    assert [(answer["by"], answer["query"]) for answer in answers] == [("words", "red"), ("image", "photos/blue.png")]
    assert answers[1]["results"][0]["file"] == "photos/blue.png"


def test_gallery_page(run, tmp_path):
    done = run("red", "--image", "photos/blue.png", "-n", "2", "--gallery", "out.html")
    assert "drawn: out.html" in done.stderr
    text = (tmp_path / "out.html").read_text()
    assert text.count('src="data:image/jpeg') == 5  # four found, and the one searched for
    assert 'href="photos/deep/red.png"' in text
    assert run("--image", "photos/blue.png", "--gallery", "out.png").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "standard input is no terminal"),
        (["--queries", "none.txt"], 2, "none.txt: cannot be read: No such file"),
        (
            ["--queries", "photos/green.png"],
            2,
            "photos/green.png: not a text in UTF-8. Fix: save the queries",
        ),
        (["--queries", "-"], 2, "no query in it"),
        (["--image", "none.png"], 1, "none.png: no such file"),
        (["caf\udce9"], 2, "the query is not valid text: 'caf\\xe9'. Fix: write it in UTF-8"),
        (["red", "--not", "caf\udce9"], 2, "the text of --not is not valid text"),
        (["red", "--not", " "], 2, "the text of --not is empty"),
        (["red", "--gallery", "out.pdf"], 2, ".png, .jpg, .jpeg, .webp, .html"),
    ],
)
def test_errors_that_a_user_can_fix(run, arguments, code, message):
    done = run(*arguments)
    words = " ".join(done.stderr.replace("│", " ").split())
    assert (done.returncode, done.stdout) == (code, ""), words
    assert message in words and "Traceback" not in words


def test_approximate_is_measured_and_noted(run, tmp_path):
    first = run("red", "-n", "1", "--approximate")
    assert results(first) == [("photos/deep/red.png", "red")]
    assert "recall@10 1.000 against exact search, 192 sample queries" in first.stderr
    again = run("red", "-n", "1", "--approximate")
    assert results(again) == results(first)
    assert "recall@10" not in again.stderr
    assert "note: approximate index of 6 images: it finds 100.0% of the true ten best" in again.stderr
    assert (tmp_path / ".index.index" / "neighbours.json").is_file()


def test_the_prompt(embedded, tmp_path):
    """One process answers line after line, a bad one too, until Ctrl-D."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [*CLIPLINE, "search", "index", "-n", "1"],
        cwd=tmp_path, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(child)
    seen = b""

    def until(*wanted: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while not all(word in seen for word in wanted):
            assert time.monotonic() < end, seen.decode()
            if select.select([parent], [], [], 1)[0]:
                try:
                    seen += os.read(parent, 65536)
                except OSError:  # the terminal is closed
                    assert all(word in seen for word in wanted), seen.decode()

    def ask(line: bytes, *wanted: bytes) -> None:
        nonlocal seen
        seen = b""
        os.write(parent, line)
        until(*wanted)

    try:
        until(b"6 images in index", b"search> ")
        ask(b"red\n", b"photos/deep/red.png", b"search> ")
        ask(b"@none.png\n", b"error: none.png: no such file", b"search> ")
        ask(b"\n", b"search> ")
        ask(b"@photos/sky.png\n", b"photos/sky.png", b"1.0000", b"search> ")
        ask(b"blue\n", b"photos/blue.png", b"search> ")
        os.write(parent, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(parent)


def test_nothing_heavy_is_imported(embedded, tmp_path):
    program = (
        "import sys; from clipline.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    )
    for more in (["red"], ["--image", "photos/sky.png", "--gallery", "out.html"]):
        command = [sys.executable, "-c", program, "search", "index", *more]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "HEAVY []"
