"""The command line as people and scripts meet it: output, exit codes, and what it never imports."""

import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipline.cli import app
from clipline.errors import UsageError
from clipline.pictures.gallery import CELL, MARGIN
from tests import factories

ROOT = Path(__file__).parents[2]
CLIPLINE = [sys.executable, "-c", "from clipline.cli import main; main()"]
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    line = [*CLIPLINE, *(str(argument) for argument in arguments)]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(line, capture_output=True, check=False, timeout=60, env=environment, **options)


def stdout_of(done: subprocess.CompletedProcess, code: int = 0) -> str:
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return os.fsdecode(done.stdout)


def error_of(done: subprocess.CompletedProcess, code: int = 2) -> str:
    """The one error, with its exit code, and nothing on stdout."""
    assert done.returncode == code, done.stderr.decode()
    text = done.stderr.decode()
    assert text.startswith("error: ")
    assert "Traceback" not in text
    assert done.stdout == b""
    return text


@pytest.fixture(scope="module")
def folder(make_bundle, tmp_path_factory) -> Path:
    """A folder with onnx, photos (one of each colour) and index, made by the command itself."""
    folder = tmp_path_factory.mktemp("workspace")
    make_bundle(folder / "onnx")
    (folder / "photos" / "sub").mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (60, 40), colour).save(folder / "photos" / "sub" / f"{name}.jpg", quality=95)
    out = stdout_of(run("embed", "photos", "--model", "onnx", "--out", "index", cwd=folder))
    assert out.startswith("index: 3 embeddings in 1 part, 0 errors (3 new); ")
    assert "images/s on C" in out, "CPU or CUDA is named"
    return folder


def test_version_and_help():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert stdout_of(run("--version")).strip() == f"clipline {project['version']}"
    for arguments in (["--help"], []):
        text = run(*arguments).stdout.decode()
        assert "embed" in text
        assert "search" in text
    for name, example in [("embed", "clipline embed photos --model"), ("search", "two dogs play in the snow")]:
        text = factories.run(name, "--help").out
        assert "Examples" in text
        assert example in text


def test_nothing_heavy_is_imported(folder):
    """torch and its kind take seconds, or are not installed where people only embed and search."""
    program = (
        "import sys; from clipline.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'timm', 'mlflow', 'dvc', 'onnx', 'matplotlib', 'datasets', 'pandas'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
        "print('ALL', *sys.modules)"
    )
    for arguments in (["--help"], ["search", "index", "red"], ["embed", "photos", "--model", "onnx", "--out", "new"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
        heavy, modules = done.stdout.splitlines()[-2:]
        # pyarrow takes pandas into service for writing where it is installed.
        assert heavy == ("HEAVY ['pandas']" if arguments[0] == "embed" else "HEAVY []")
        if arguments == ["--help"]:
            assert {"numpy", "pyarrow", "onnxruntime"}.isdisjoint(modules.split())


def test_lines_in_a_pipe(folder):
    lines = stdout_of(run("search", "index", "red", "a blue picture", "-n", "2", cwd=folder)).splitlines()
    fields = [line.split("\t") for line in lines]
    assert [(rank, query) for rank, _, _, query in fields] == [
        ("1", "red"),
        ("2", "red"),
        ("1", "a blue picture"),
        ("2", "a blue picture"),
    ]
    assert float(fields[0][1]) == pytest.approx(1, abs=1e-3)
    assert fields[0][2] == "photos/sub/red.jpg"
    assert fields[2][2] == "photos/sub/blue.jpg"


def test_a_table_in_a_terminal(folder):
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    subprocess.run(
        [*CLIPLINE, "search", "index", "red", "-n", "1"], cwd=folder, stdout=child, check=True, env=environment
    )
    text = os.read(parent, 65536).decode()
    os.close(child)
    os.close(parent)
    assert "rank" in text
    assert "│" in text
    assert "photos/sub/red.jpg" in text


def test_json(folder):
    answers = json.loads(stdout_of(run("search", "index", "green", "-n", "1", "--json", cwd=folder)))
    assert answers[0]["query"] == "green"
    result = answers[0]["results"][0]
    assert (result["rank"], result["path"], result["file"]) == (1, "sub/green.jpg", "photos/sub/green.jpg")
    assert result["score"] == pytest.approx(1, abs=1e-3)


def test_gallery(folder, tmp_path):
    picture = tmp_path / "found" / "out.png"
    done = run("search", "index", "blue", "-n", "3", "--gallery", picture, cwd=folder)
    assert len(stdout_of(done).splitlines()) == 3
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    column = pixels[:, MARGIN + CELL // 2]
    first = column[np.abs(column - COLOURS["blue"]).max(axis=1) < 12]
    assert len(first) > 100, "the best one stands first"


def test_gallery_of_images_that_are_gone(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "photos" / "a.png")
    assert factories.run("embed", "photos", "--model", folder / "onnx", "--out", "index").code == 0
    (tmp_path / "photos").rename(tmp_path / "moved")
    done = run("search", "index", "red", "--gallery", "out.png")
    text = done.stderr.decode()
    assert done.returncode == 1
    assert "note: the images are not in photos any more" in text
    assert "error: photos/a.png: no such file" in text
    assert "--root" in text
    assert not (tmp_path / "out.png").exists()
    assert factories.run("search", "index", "red", "--gallery", "out.png", "--root", "moved").code == 0
    assert (tmp_path / "out.png").exists()


def test_too_many_errors_are_exit_3(folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (9, 9), "red").save(photos / "good.png")
    (photos / "bad.jpg").write_text("text")
    arguments = ["embed", photos, "--model", folder / "onnx", "--out", tmp_path / "out", "--overwrite"]
    done = run(*arguments)
    assert done.returncode == 3
    assert "1 embedding in 1 part, 1 error (1 new);" in done.stdout.decode()
    assert "bad.jpg: decode: not an image" in done.stderr.decode()
    assert factories.run(*arguments, "--max-errors", "1").code == 0


def test_an_error_is_one_line_and_an_exit_code(folder, tmp_path):
    text = error_of(run("search", tmp_path / "none", "red"))
    assert text == f"error: {tmp_path / 'none'}: no such folder. {text.split('. ', 1)[1]}"
    assert text.count("\n") == 1
    assert "no part of embeddings" in error_of(
        run("embed", folder / "photos", "--model", folder / "onnx", "--out", folder / "photos", "--overwrite")
    )


def test_precision_auto_says_what_it_took_and_stays_with_what_a_folder_holds(folder, tmp_path):
    arguments = [
        "embed",
        folder / "photos",
        "--model",
        folder / "onnx",
        "--out",
        tmp_path / "out",
        "--precision",
        "auto",
    ]
    done = run(*arguments, "--provider", "cpu")
    assert "--precision auto: fp32" in done.stderr.decode()
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"fp32-', '"int8-'))
    again = factories.run(*arguments)
    assert again.code == 2 and "no int8 image graph; it has fp32" in again.error


def test_refusals(folder, tmp_path):
    """Each way to be wrong says how to fix it, before any work."""
    (tmp_path / "empty").mkdir()
    embed = ["embed", folder / "photos", "--model", folder / "onnx", "--out"]
    for arguments, expected in [
        (["embed", tmp_path / "none", *embed[2:], tmp_path / "out"], "no such file or folder"),
        (["embed", tmp_path / "empty", *embed[2:], tmp_path / "out"], "no images in it"),
        ([*embed[:3], tmp_path / "empty", "--out", tmp_path / "out"], "manifest.json: no such file"),
        ([*embed, folder / "index", "--dtype", "float32"], "--overwrite"),
        ([*embed, tmp_path / "out", "--batch-size", "none"], "a number above 0, or auto"),
        ([*embed, folder / "photos"], "no part of embeddings"),
        (["search", tmp_path / "empty", "red"], "no embeddings here"),
        (["search", folder / "index", ""], "query is empty"),
        (["search", folder / "index", "red", "--gallery", tmp_path / "out.pdf"], ".png"),
        (["search", folder / "index", "red", "--model", tmp_path / "none"], "no such model folder"),
    ]:
        with pytest.raises(UsageError) as caught:
            app([str(argument) for argument in arguments], standalone_mode=False)
        assert expected in str(caught.value), arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize(
    "arguments",
    [["embed"], ["embed", "a", "--batch-size", "0"], ["search", "x"], ["nonsense"], ["search", "x", "y", "-n", "0"]],
)
def test_usage_that_typer_refuses(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_usage_is_one_line():
    text = error_of(run("embed", "a", "--model", ROOT, "--out", "b", "--precision", "int4"))
    assert text.startswith("error: Invalid value for '--precision'")
    assert text.endswith(". Fix: see clipline embed --help\n") and text.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="names that are no text exist on Unix alone")
def test_names_that_are_no_text_come_out_as_they_are(folder, tmp_path, monkeypatch):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "photos" / name, "PNG")
    monkeypatch.chdir(tmp_path)
    assert factories.run("embed", "photos", "--model", folder / "onnx", "--out", "index").code == 0
    done = run("search", "index", "red", "--gallery", "out.png")
    assert done.returncode == 0 and done.stdout.split(b"\t")[2] == b"photos/caf\xe9.png"
    answers = json.loads(factories.run("search", "index", "red", "--json").out)
    assert answers[0]["results"][0]["path"] == "caf%E9.png"


def test_the_entry_point_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"clipline": "clipline.cli:main"}
