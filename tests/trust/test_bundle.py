"""A damaged or changed model folder is refused by every command."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipline.errors import CliplineError, UsageError
from clipline.runtime import bundle as bundles
from clipline.runtime.bundle import Bundle
from clipline.runtime.model import OnnxModel

CLIPLINE = Path(sys.executable).with_name("clipline")
FILES = ("image.onnx", "text.onnx", "tokenizer.json", "preprocess.json")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


def use(folder):
    model = OnnxModel(folder, provider="cpu", threads=1)
    return model.embed_pixels(PIXELS), model.embed_texts(["red", "a green picture"])


def change(folder, name, edit):
    values = json.loads((folder / name).read_text())
    edit(values)
    (folder / name).write_text(json.dumps(values))


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_found(make_bundle, tmp_path, name):
    """100 flips of one bit in each file that embeddings depend on: all are reported, none gives an embedding."""
    folder, draw = make_bundle(tmp_path / "onnx"), random.Random(0)
    change(folder, "manifest.json", lambda values: values.update(files=hashes(folder)))
    use(folder)
    original = (folder / name).read_bytes()
    for _ in range(100):
        data = bytearray(original)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(data)
        with pytest.raises(UsageError, match=rf"{name}: not the file that manifest\.json describes .*Fix: copy"):
            use(folder)
    (folder / name).write_bytes(original)
    use(folder)


def hashes(folder) -> dict[str, str]:
    import hashlib

    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("tokenizer.json", "preprocess.json")
    }


def test_a_flipped_manifest_gives_an_error_or_the_same(make_bundle, tmp_path):
    """Old manifests have no checksum, so a flip may go unnoticed; but embeddings must not change."""
    folder, draw = make_bundle(tmp_path / "onnx"), random.Random(0)
    expected, original, refused = use(folder), (folder / "manifest.json").read_bytes(), 0
    for _ in range(200):
        data = bytearray(original)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / "manifest.json").write_bytes(data)
        try:
            actual = use(folder)
        except CliplineError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert all(np.array_equal(a, b) for a, b in zip(expected, actual, strict=True))
    assert refused > 50


@pytest.mark.parametrize("file", ["../image.onnx", "/etc/passwd", "a/b.onnx", "..", "", "image.onnx\n", ".hidden"])
def test_a_graph_lies_in_the_folder(make_bundle, tmp_path, file):
    folder = make_bundle(tmp_path / "onnx")
    change(folder, "manifest.json", lambda values: values["image"]["fp32"].update(file=file))
    with pytest.raises(UsageError, match=r"manifest\.json: damaged or not a clipline file"):
        Bundle(folder)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("preprocess.json", lambda values: values.update(size=10**9)),
        ("preprocess.json", lambda values: values.update(size=0)),
        ("preprocess.json", lambda values: values.update(mean=[0.5])),
        ("manifest.json", lambda values: values.update(dim=10**12)),
        ("manifest.json", lambda values: values.update(dim=-1)),
        ("manifest.json", lambda values: values.update(files={"tokenizer.json": 3})),
    ],
)
def test_sizes_that_no_model_has(make_bundle, tmp_path, name, edit):
    folder = make_bundle(tmp_path / "onnx")
    change(folder, name, edit)
    with pytest.raises(UsageError, match=f"{name}: damaged or not a clipline file"):
        Bundle(folder)


@pytest.mark.parametrize("name", ["manifest.json", "preprocess.json", "tokenizer.json"])
def test_files_too_large_to_read(make_bundle, tmp_path, name):
    folder = make_bundle(tmp_path / "onnx")
    most = bundles.MAX_TOKENIZER if name == "tokenizer.json" else bundles.MAX_JSON
    with (folder / name).open("ab") as file:
        file.truncate(most + 1)
    with pytest.raises(UsageError, match=rf"{name}: over {most:,} bytes"):
        OnnxModel(folder, provider="cpu").embed_texts(["red"])


def test_commands_say_it_in_one_line_and_write_nothing(make_bundle, tmp_path):
    folder, photos = make_bundle(tmp_path / "onnx"), tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (20, 20), "red").save(photos / "red.png")
    data = bytearray((folder / "image.onnx").read_bytes())
    data[-20] ^= 1
    (folder / "image.onnx").write_bytes(data)
    command = [CLIPLINE, "embed", photos, "--model", folder, "--out", tmp_path / "out", "--provider", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.startswith(f"error: {folder}/image.onnx: not the file") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", FILES)
def test_doctor_checks_every_file(make_bundle, tmp_path, name):
    folder = make_bundle(tmp_path / "onnx")
    change(folder, "manifest.json", lambda values: values.update(files=hashes(folder)))
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(original[:-2] + b"~" + original[-1:])
    command = [CLIPLINE, "doctor", "--model", folder, "--provider", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    code, output = (2, done.stderr) if name == "preprocess.json" else (1, done.stdout)  # without it there is no model
    assert done.returncode == code, done.stderr
    assert f"{folder / name}: not the file that manifest.json describes" in output
