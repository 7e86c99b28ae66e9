"""Near-duplicates and outliers: exact in blocks of any size, and the output of the command."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clipline.dupes import similarity
from clipline.dupes.find import File
from clipline.dupes.show import draw_outliers
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.errors import CliplineError
from clipline.runtime.model import OnnxModel
from tests.factories import run


def dupes(*arguments: object) -> SimpleNamespace:
    return run("dupes", *arguments)


def units(rows, dim=16, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def groups_by_walking(vectors, threshold) -> list[list[int]]:
    """Groups by walking from image to image."""
    alike, seen, groups = similarity.unit(vectors) @ similarity.unit(vectors).T >= threshold, set(), []
    for row in range(len(vectors)):
        todo, group = [row], set()
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                group.add(at)
                todo += np.flatnonzero(alike[at]).tolist()
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


@pytest.mark.parametrize("rows", [1, 7, 64, 4096])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.75])
def test_groups_equal_a_walk(monkeypatch, rows, threshold):
    monkeypatch.setattr(similarity, "ROWS", rows)
    vectors = units(120 if rows == 1 else 300, 12)
    counts = []
    groups = [group.tolist() for group in similarity.groups(vectors, threshold, counts.append)]
    assert groups == groups_by_walking(vectors, threshold)
    assert sum(counts) == similarity.pairs_in(len(vectors))
    if threshold == 0.75:
        assert len(groups) > 1 and max(map(len, groups)) > 2, "chains are in it"


def test_a_long_chain_is_one_group(monkeypatch):
    monkeypatch.setattr(similarity, "ROWS", 30)
    angles = np.random.default_rng(0).permutation(100) * 0.05
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    (group,) = similarity.groups(chain, float(np.cos(0.052)))
    assert group.tolist() == list(range(100))
    assert similarity.groups(chain, float(np.cos(0.048))) == []


def test_copies_are_found_at_a_threshold_of_one_in_half_precision():
    vectors = units(50, 1024).astype(np.float16)
    (group,) = similarity.groups(np.concatenate([vectors, vectors[7:8]]), 1.0)
    assert group.tolist() == [7, 50]


@pytest.mark.timeout(20)
def test_thousands_of_equal_images_take_no_time():
    (group,) = similarity.groups(np.ones((5000, 2), np.float16), 0.99)
    assert len(group) == 5000
    assert similarity.groups(np.empty((0, 4), np.float16), 0.9) == []


@pytest.mark.parametrize("rows", [1, 7, 4096])
@pytest.mark.parametrize("neighbours", [1, 5, 500])
def test_nearest_equals_a_full_sort(monkeypatch, rows, neighbours):
    monkeypatch.setattr(similarity, "ROWS", rows)
    vectors = units(40)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    expected = np.sort(scores, axis=1)[:, ::-1][:, : min(neighbours, 39)].mean(axis=1)
    assert similarity.nearest(vectors, neighbours) == pytest.approx(expected, abs=1e-5)


def test_one_image_has_no_neighbours():
    with pytest.raises(ValueError, match="one image alone has no neighbours"):
        similarity.nearest(units(1), 3)


# ------------------------------------------------------------ the command


def photo(path: Path, colour, size=(40, 30), **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


@pytest.fixture
def folder(make_bundle, tmp_path, monkeypatch):
    """In the current folder: photos of three reds (one twice, one larger), two greens, one blue; their index."""
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photos" / "a-red.png", (250, 0, 0))
    photo(tmp_path / "photos" / "b-large-red.png", (250, 3, 0), (80, 60))
    shutil.copy("photos/b-large-red.png", "photos/z-same-red.png")
    photo(tmp_path / "photos" / "green" / "2.png", (0, 250, 0))
    photo(tmp_path / "photos" / "green" / "1.png", (0, 250, 0), compress_level=0)
    photo(tmp_path / "photos" / "lonely-blue.png", (0, 0, 250))
    model = OnnxModel(make_bundle(tmp_path / "onnx"), provider="cpu", threads=1)
    embed(Folder(tmp_path / "photos"), model, tmp_path / "index", Options(part_rows=2))
    return tmp_path


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_groups_in_a_pipe_and_nothing_is_touched(folder):
    before = hashes(folder)
    done = dupes("index", "--threshold", "0.99")
    assert done.code == 0
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [(row[0], row[1], row[6]) for row in rows] == [
        ("1", "keep", "photos/b-large-red.png"),
        ("1", "same bytes", "photos/z-same-red.png"),
        ("1", "alike", "photos/a-red.png"),
        ("2", "keep", "photos/green/1.png"),
        ("2", "alike", "photos/green/2.png"),
    ]
    assert [row[3:5] for row in rows[:3]] == [["80", "60"], ["80", "60"], ["40", "30"]]
    assert float(rows[1][2]) == pytest.approx(1, abs=1e-4) and 0.99 < float(rows[2][2]) <= 1
    assert "6 images: 2 groups with 3 images (0.0 MB) beside those to keep" in done.err
    assert hashes(folder) == before


def test_of_equal_pixels_the_larger_file_is_kept(folder):
    sizes = {name: (folder / "photos" / "green" / name).stat().st_size for name in ("1.png", "2.png")}
    assert sizes["1.png"] > sizes["2.png"]
    (folder / "photos" / "green" / "1.png").rename(folder / "photos" / "green" / "3.png")
    model = OnnxModel(folder / "onnx", provider="cpu", threads=1)
    embed(Folder(folder / "photos" / "green"), model, folder / "greens", Options())
    rows = [line.split("\t") for line in dupes("greens").out.splitlines()]
    assert [(row[1], row[6]) for row in rows] == [("keep", "photos/green/3.png"), ("alike", "photos/green/2.png")]


def test_json_and_csv(folder):
    done = dupes("index", "--threshold", "0.99", "--json", "--csv", "new/d.csv")
    content = json.loads(done.out)
    assert (content["threshold"], content["images"], len(content["groups"])) == (0.99, 6, 2)
    first = content["groups"][0]
    assert (first["keep"]["path"], first["keep"]["file"]) == ("b-large-red.png", "photos/b-large-red.png")
    assert [(entry["path"], entry["same_bytes"]) for entry in first["others"]] == [
        ("z-same-red.png", True),
        ("a-red.png", False),
    ]
    with Path("new/d.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["verdict"], row["path"]) for row in rows][:2] == [
        ("1", "keep", "b-large-red.png"),
        ("1", "same bytes", "z-same-red.png"),
    ]
    assert len(rows) == 5 and "written: new/d.csv" in done.err


def test_no_duplicates(folder):
    for name in ("z-same-red.png", "green/1.png", "a-red.png"):
        (folder / "photos" / name).unlink()
    model = OnnxModel(folder / "onnx", provider="cpu", threads=1)
    embed(Folder(folder / "photos"), model, folder / "few", Options())
    done = dupes("few", "--gallery", "d.png")
    assert (done.code, done.out) == (0, "")
    assert "3 images: 0 groups" in done.err and "no duplicates, so no picture" in done.err
    assert not Path("d.png").exists()


def test_outliers(folder):
    rows = [line.split("\t") for line in dupes("index", "--outliers", "2", "--neighbours", "1").out.splitlines()]
    assert [(row[0], row[5]) for row in rows] == [("1", "photos/lonely-blue.png"), ("2", "photos/a-red.png")]
    assert float(rows[0][1]) == pytest.approx(-0.5, abs=0.02)
    content = json.loads(dupes("index", "--outliers", "9", "--json", "--csv", "o.csv").out)
    assert [entry["rank"] for entry in content] == [1, 2, 3, 4, 5, 6]
    assert Path("o.csv").read_text().splitlines()[0] == "rank,similarity,width,height,bytes,path"


def test_pictures(folder):
    for arguments in (("--threshold", "0.99"), ("--outliers", "6")):
        done = dupes("index", *arguments, "--gallery", "new/p.png")
        assert done.code == 0 and "drawn: new/p.png" in done.err
        pixels = np.asarray(Image.open("new/p.png").convert("RGB")).astype(int)
        reds, blues = (int((np.abs(pixels - c).max(axis=2) < 8).sum()) for c in ((250, 0, 0), (0, 0, 250)))
        assert reds > 5000
        assert (blues > 5000) == ("--outliers" in arguments)


def test_images_that_moved(folder):
    (folder / "photos").rename(folder / "moved")
    done = dupes("index", "--threshold", "0.99", "--gallery", "p.png")
    assert done.code == 1 and "name the folder of the images with --root" in done.error
    done = dupes("index", "--threshold", "0.99", "--gallery", "p.png", "--root", "moved")
    assert done.code == 0 and "moved/a-red.png" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none",), "none: no such folder"),
        (("photos",), "no embeddings here"),
        (("index", "--gallery", "p.txt"), "a picture's name ends in"),
        (("index", "--root", "none"), "--root none: no such folder"),
    ],
)
def test_bad_usage(folder, arguments, message):
    done = dupes(*arguments)
    assert (done.code, done.out) == (2, "") and message in done.error


def test_nothing_heavy_is_imported(folder):
    program = (
        "import sys; from clipline.cli import app\n"
        "try: app(['dupes', 'index'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'dvc', 'onnx', 'onnxruntime', 'matplotlib', 'pandas'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.endswith("HEAVY []\n")


def test_members_of_tar_shards_are_not_drawn(tmp_path):
    (tmp_path / "shard.tar").write_bytes(b"members")
    file = File("shard.tar/a.png", 0.5, 99, 9, 9, "")
    with pytest.raises(CliplineError, match=r"shard\.tar/a\.png: inside of a tar shard"):
        draw_outliers([file], lambda path: tmp_path / path, tmp_path / "out.png", 1)
