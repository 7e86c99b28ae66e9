"""Preprocessing of small datasets: what is kept, what is left out and why, and that a kill loses nothing."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from clipline.data import splits
from clipline.data.prepare import prepare
from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.image import Preprocess
from clipline.utils import checksums
from tests.helpers import unprivileged

TABLES = ["captions.parquet", "images.parquet"]
FILES = sorted([*TABLES, "images.npy", "tokens.npy", "tokenizer.json", "report.json", "caption_lengths.png"])


def table(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_files_follow_the_contract(source, run: Callable, tmp_path: Path) -> None:
    source.fill(12)
    report = run()
    out = tmp_path / "prepared"
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert checksums.read_verified(out / "report.json") == report
    images, captions = table(out, "images"), table(out, "captions")
    pixels, tokens = np.load(out / "images.npy", mmap_mode="r"), np.load(out / "tokens.npy")
    assert (pixels.shape, pixels.dtype) == ((12, 32, 32, 3), np.uint8)
    assert (tokens.shape, tokens.dtype) == ((24, 12), np.int32)
    assert [row["row"] for row in images] == list(range(12))
    assert {(row["width"], row["height"]) for row in images} == {(40, 30)}
    for row in images:
        expected, _ = Preprocess(32, "shortest").read(source.images / row["image"])
        np.testing.assert_array_equal(pixels[row["row"]], expected)
    assert sorted((row["image"], row["caption"]) for row in captions) == sorted(source.rows)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    for row, ids in zip(captions, tokens, strict=True):
        encoding = tokenizer.encode(row["caption"])
        assert row["length"] == len(encoding.ids)
        assert ids.tolist() == encoding.ids + [0] * (12 - len(encoding.ids))
    where = {row["image"]: row["split"] for row in images}
    assert all(row["split"] == where[row["image"]] for row in captions)


def test_reader_gives_each_split(source, run: Callable, tmp_path: Path) -> None:
    source.fill(12)
    source.add("more.png", 99, ["one caption alone"])
    report = run()
    prepared = Prepared(tmp_path / "prepared")
    assert prepared.fingerprint == report["fingerprint"]
    assert prepared.image_size == 32
    assert prepared.vocab_size == prepared.tokenizer.get_vocab_size() == report["tokenizer"]["vocab_size"]
    wanted = dict.fromkeys(name for name, _ in source.rows)
    texts = {name: [text for image, text in source.rows if image == name] for name in wanted}
    names = []
    for split in ("train", "val", "test"):
        part = prepared.split(split)
        names += part.image_names
        sizes = {"images": len(part.image_names), "captions": len(part.captions)}
        assert sizes == report["splits"][split]
        assert isinstance(part.images, np.memmap)
        assert (part.image_rows.dtype, part.caption_image.dtype) == (np.int64, np.int64)
        assert (part.tokens.dtype, part.lengths.dtype) == (np.int32, np.int32)
        for row, name in zip(part.image_rows, part.image_names, strict=True):
            expected, _ = Preprocess(32, "shortest").read(source.images / name)
            np.testing.assert_array_equal(part.images[row], expected)
        for number, text in enumerate(part.captions):
            assert text in texts[part.image_names[part.caption_image[number]]]
            ids = prepared.tokenizer.encode(text).ids
            assert part.tokens[number][: part.lengths[number]].tolist() == ids
    assert sorted(names) == sorted(wanted)
    with pytest.raises(CliplineError, match="no split 'dev'; it has: test, train, val"):
        prepared.split("dev")


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith(".png")])
def test_reader_says_what_is_missing_or_damaged(source, run: Callable, tmp_path: Path, file: str) -> None:
    source.fill(8)
    run()
    path = tmp_path / "prepared" / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CliplineError, match=r"prepared.*: damaged.*Fix: run the preprocess stage"):
        Prepared(tmp_path / "prepared").tokenizer
    path.unlink()
    with pytest.raises(CliplineError, match=rf"{file}: no such file\. Fix"):
        Prepared(tmp_path / "prepared")


def test_reader_refuses_files_of_two_runs(source, run: Callable, tmp_path: Path) -> None:
    source.fill(8)
    run()
    np.save(tmp_path / "prepared" / "tokens.npy", np.zeros((5, 16), np.int32))
    with pytest.raises(CliplineError, match=r"damaged: tokens\.npy was changed since it was written"):
        Prepared(tmp_path / "prepared")


# ---------------------------------------------------------------- what is left out


def test_every_caption_and_image_is_accounted_for(source, run: Callable) -> None:
    source.fill(20)
    source.add("blank.png", 30, [" ", "&nbsp;"])
    source.image("uncaptioned.png", 31)
    source.rows += [("gone.png", "no file"), ("0003.png", source.rows[6][1].upper()), ("0004.png", " . ")]
    (source.images / "text.png").write_text("a text file")
    source.rows.append(("text.png", "a text file named .png"))
    report = run(max_broken=0.1)
    images, captions = report["images"], report["captions"]
    dropped = {reason: part["count"] for reason, part in captions["dropped"].items()}
    repeats = dropped.pop("repeats another caption of its training image", 0)
    assert dropped == {"no words": 3, "image is missing or unreadable": 2}
    assert captions["read"] == captions["kept"] + sum(dropped.values()) + repeats == 46
    assert images["kept"] == 20
    left_out = images["left out"]
    assert left_out["missing or unreadable"] == {
        "count": 2,
        "all": {"gone.png": "no such file", "text.png": "not an image that Pillow can read"},
    }
    assert left_out["without captions"] == {"count": 2, "examples": ["blank.png", "uncaptioned.png"]}
    assert sum(part["captions"] for part in report["splits"].values()) == captions["kept"]


def test_too_many_broken_images_stop_the_stage(source, run: Callable, tmp_path: Path) -> None:
    source.fill(20)
    for number in range(8):
        (source.images / f"{number:04d}.png").write_text("no image")
    (source.images / "0019.png").unlink()
    with pytest.raises(CliplineError) as caught:
        run(max_broken=0.44)
    message = str(caught.value)
    assert "9 of 20 images are missing or unreadable, more than preprocess.max_broken (0.44)" in message
    assert "0019.png: no such file" in message
    assert message.count("not an image that Pillow can read") == 4
    assert not list(tmp_path.glob("*prepared*"))
    assert run(max_broken=0.45)["images"]["kept"] == 11


@pytest.mark.parametrize(
    ("images", "rows", "wanted"),
    [
        (0, [], "captions.csv: no captions below the header"),
        (0, [("a.png", "no file at all")], "1 of 1 images are missing or unreadable"),
        (4, [("0000.png", "x")], "test 2 and val 2 ask for 4 of 4 images, 4 of which have no copy"),
    ],
)
def test_too_little_data_is_one_clear_error(source, run: Callable, images: int, rows: list, wanted: str) -> None:
    source.fill(images)
    source.rows += rows
    with pytest.raises(CliplineError) as caught:
        run()
    assert wanted in str(caught.value)


def test_rules_and_lower_case_reach_the_captions(source, run: Callable, tmp_path: Path) -> None:
    source.fill(8)
    source.add("short.png", 50, ["Two Dogs", "THREE BIG Dogs run"])
    report = run(captions={"lowercase": True, "min_words": 3, "max_words": 100})
    texts = [row["caption"] for row in table(tmp_path / "prepared", "captions") if row["image"] == "short.png"]
    assert texts == ["three big dogs run"]
    assert report["captions"]["dropped"]["fewer than 3 words"]["count"] == 1


# ---------------------------------------------------------------- no image in two splits


def column_data(source) -> None:
    for number in range(12):
        source.add(f"{number:02d}.png", number, split=("train", "val", "test")[number % 3])


def test_a_training_copy_of_a_test_image_is_left_out(source, run: Callable, tmp_path: Path) -> None:
    column_data(source)
    source.add("copy.png", 2, ["the same picture as 02.png"], split="train")
    source.image("resaved.bmp", 4)  # other bytes, the same pixels
    source.rows.append(("resaved.bmp", "the same picture as 04.png", "train"))
    source.add("twin.png", 3, ["a copy within train"], split="train")
    report = run(split={"kind": "column"})
    assert report["images"]["left out"]["copies of images in another split"] == {
        "count": 2,
        "examples": [{"image": "copy.png", "copy of": "02.png"}, {"image": "resaved.bmp", "copy of": "04.png"}],
    }
    assert report["images"]["kept copies within a split"]["count"] == 1
    assert report["captions"]["dropped"]["image is a copy of one in another split"]["count"] == 2
    assert report["splits"] == {
        "train": {"images": 5, "captions": 9},
        "val": {"images": 4, "captions": 8},
        "test": {"images": 4, "captions": 8},
    }
    prove(tmp_path / "prepared")


def prove(out: Path) -> None:
    """Read back what was written: no name and no pixels in two splits."""
    pixels = np.load(out / "images.npy")
    owner: dict[bytes, str] = {}
    names = set()
    for row in table(out, "images"):
        assert row["image"] not in names
        names.add(row["image"])
        digest = hashlib.sha256(pixels[row["row"]].tobytes()).digest()
        assert owner.setdefault(digest, row["split"]) == row["split"]


def test_hash_keeps_all_copies_in_train(source, run: Callable, tmp_path: Path) -> None:
    source.fill(20)
    for number in range(10):
        source.add(f"copy{number}.png", number)
    report = run(split={"kind": "hash", "val": 4, "test": 5})
    where = {row["image"]: row["split"] for row in table(tmp_path / "prepared", "images")}
    assert {where[f"{number:04d}.png"] for number in range(10)} == {"train"}
    assert {where[f"copy{number}.png"] for number in range(10)} == {"train"}
    assert {name: part["images"] for name, part in report["splits"].items()} == {"train": 21, "val": 4, "test": 5}
    assert report["images"]["kept copies within a split"]["count"] == 10
    assert report["images"]["distinct pictures"] == 20
    prove(tmp_path / "prepared")


def test_column_leaves_images_of_no_split_out(source, run: Callable) -> None:
    column_data(source)
    source.add("none.png", 90, ["in no split"], split="")
    report = run(split={"kind": "column"})
    assert report["images"]["left out"]["in no split"] == {"count": 1, "examples": ["none.png"]}
    assert report["captions"]["dropped"]["image is in no split"]["count"] == 1


def test_an_empty_split_stops_the_stage(source, run: Callable) -> None:
    for number in range(4):
        source.add(f"{number}.png", number, split=("train", "test")[number % 2])
    with pytest.raises(CliplineError, match=r"no image is left for val \(train 2, val 0, test 2\)"):
        run(split={"kind": "column"})


def official_data(source, count: int) -> None:
    official = splits.official()
    for split in splits.NAMES:
        names = [name for name, owner in official.items() if owner == split][:count]
        for number, name in enumerate(names):
            source.add(name, 1000 * splits.NAMES.index(split) + number)


def test_official_lists_decide_and_unlisted_images_are_counted(source, run: Callable, tmp_path: Path) -> None:
    official_data(source, 3)
    source.add("1155138244_859fd6e079.jpg", 5000)  # one of the 91
    report = run(max_broken=1.0, split={"kind": "flickr8k"})
    assert {name: part["images"] for name, part in report["splits"].items()} == {"train": 3, "val": 3, "test": 3}
    assert report["images"]["left out"]["in no split"]["examples"] == ["1155138244_859fd6e079.jpg"]
    assert report["images"]["listed but absent"]["count"] == 7991
    official = splits.official()
    assert all(row["split"] == official[row["image"]] for row in table(tmp_path / "prepared", "images"))


def test_official_lists_with_other_data_stop_the_stage(source, run: Callable) -> None:
    source.fill(8)
    with pytest.raises(CliplineError, match=r"8,000 of the 8,000 images in Flickr8k's official lists have no caption"):
        run(split={"kind": "flickr8k"})


# ---------------------------------------------------------------- the tokenizer learns from train alone


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_words_of_evaluation_do_not_reach_the_vocabulary(source, run: Callable, tmp_path: Path, kind: str) -> None:
    column_data(source)
    source.rows += [(f"{number:02d}.png", "zyzzyva " * 8, "test") for number in (2, 5, 8)]
    tokenizer = {"kind": kind, "vocab_size": 600}
    run(split={"kind": "column"}, **{"inputs.tokenizer": tokenizer})
    vocabulary = Tokenizer.from_file(str(tmp_path / "prepared" / "tokenizer.json")).get_vocab()
    assert not any("zy" in token for token in vocabulary)
    source.rows = [(name, text, "train" if "zyzzyva" in text else split) for name, text, split in source.rows]
    source.rows = [row for row in source.rows if "zyzzyva" not in row[1]]
    source.rows += [("00.png", f"zyzzyva zyzzyva {number}", "train") for number in range(3)]
    run(split={"kind": "column"}, **{"inputs.tokenizer": tokenizer})
    vocabulary = Tokenizer.from_file(str(tmp_path / "prepared" / "tokenizer.json")).get_vocab()
    assert any("zyzzyva" in token for token in vocabulary)


def test_truncation_is_reported(source, run: Callable) -> None:
    source.fill(8)
    source.add("long.png", 60, ["dog " * 30])
    report = run(**{"inputs.max_length": 24})["tokenizer"]
    assert (report["truncated_captions"], report["longest_caption"]) == (1, 32)
    assert report["truncated_share"] == pytest.approx(1 / 17, abs=1e-6)


# ---------------------------------------------------------------- same data, same files; other data, other name


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_two_runs_write_the_same_bytes(source, run: Callable, tmp_path: Path) -> None:
    source.fill(12)
    run()
    first = contents(tmp_path / "prepared")
    source.rows.reverse()
    source.rows.sort(key=lambda row: row[0], reverse=True)
    source.rows.reverse()
    run()
    assert contents(tmp_path / "prepared") == first


@pytest.mark.parametrize("change", ["pixels", "caption", "name", "split", "tokens", "size"])
def test_fingerprint_changes_with_the_data(source, run: Callable, change: str) -> None:
    source.fill(12)
    first = run()
    before = first["fingerprint"]
    settings = {}
    if change == "pixels":
        source.image("0003.png", 77)
    elif change == "caption":
        source.rows[3] = (source.rows[3][0], source.rows[3][1] + " again")
    elif change == "name":
        (source.images / "0005.png").rename(source.images / "0005b.png")
        source.rows = [("0005b.png" if name == "0005.png" else name, text) for name, text in source.rows]
    elif change == "split":
        settings = {"split": {"kind": "hash", "val": 2, "test": 2, "seed": 1}}
    elif change == "tokens":
        settings = {"inputs.tokenizer": {"kind": "bpe", "vocab_size": 300}}
    else:
        settings = {"inputs.image_size": 40}
    after = run(**settings)
    assert after["fingerprint"] != before
    # What captions and tokens cannot change, such as a frozen tower's features of the images, goes by the images alone.
    same = after["images_fingerprint"] == first["images_fingerprint"]
    assert same == (change in {"caption", "tokens"})


def test_fingerprint_ignores_what_is_left_out(source, run: Callable) -> None:
    source.fill(12)
    before = run()["fingerprint"]
    source.image("uncaptioned.png", 70)
    source.rows.append(("0000.png", "..."))
    assert run()["fingerprint"] == before


# ---------------------------------------------------------------- kills, full and forbidden disks

SLOW = """
import pickle, sys, time
from pathlib import Path
from clipline.data import pack
from clipline.data.prepare import prepare
read = pack.Preprocess.read
pack.Preprocess.read = lambda self, path: (time.sleep(float(sys.argv[2])), read(self, path))[1]
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
raw, out, dataset, recipe = pickle.loads(Path(sys.argv[1]).read_bytes())
try:
    prepare(raw, out, dataset, recipe, max_broken=0.0)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def call(tmp_path: Path, job: tuple, *arguments: object) -> list[str]:
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    return [sys.executable, "-c", SLOW, str(tmp_path / "job"), *map(str, arguments)]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_killed_run_leaves_nothing_half_written(
    source, run: Callable, settings: Callable, tmp_path: Path, earlier: bool
) -> None:
    source.fill(12)
    out = tmp_path / "prepared"
    if earlier:
        run()
    before = contents(out) if earlier else None
    source.add("new.png", 80)
    process = subprocess.Popen(call(tmp_path, (source.write(), out, *settings()), 0.5))
    written = tmp_path / ".prepared.partial" / "images.npy"
    deadline = time.monotonic() + 60
    while not written.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert written.exists()
    if earlier:
        assert contents(out) == before
    else:
        assert not out.exists()
    assert run()["images"]["kept"] == 13
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert [path.name for path in tmp_path.glob("*prepared*")] == ["prepared"]


def test_a_failed_run_leaves_the_old_output(source, run: Callable, tmp_path: Path) -> None:
    source.fill(12)
    run()
    before = contents(tmp_path / "prepared")
    (source.images / "0000.png").write_text("broken now")
    with pytest.raises(CliplineError):
        run(max_broken=0.0)
    assert contents(tmp_path / "prepared") == before
    assert [path.name for path in tmp_path.glob("*prepared*")] == ["prepared"]


def test_a_missing_tokenizer_stops_before_the_images_are_read(
    source, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.fill(8)
    monkeypatch.setattr("clipline.data.images.pack", lambda *_: pytest.fail("images were packed first"))
    text = {"architecture": "bert", "name": None, "weights": str(tmp_path / "no"), "trainable": True, "pool": "cls"}
    with pytest.raises(CliplineError, match="no such folder"):
        run(**{"inputs.tokenizer": {"kind": "tower"}, "text": text})


def test_a_full_disk_is_one_clear_error(source, settings: Callable, tmp_path: Path) -> None:
    source.fill(12)
    job = (source.write(), tmp_path / "prepared", *settings())
    done = subprocess.run(call(tmp_path, job, 0, 20_000), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"CliplineError: {tmp_path}/prepared: cannot be written: File too large. Fix: raise" in done.stderr
    assert not list(tmp_path.glob("*prepared*"))


def test_too_little_space_is_noticed_before_the_work(source, run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    source.fill(12)
    usage = shutil.disk_usage("/")._replace(free=12 * 32 * 32 * 3 - 1)
    monkeypatch.setattr("clipline.data.images.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(CliplineError, match=r"12 images of 32 x 32 pixels need 0\.0 GB.*Fix: free some space"):
        run()


def test_a_forbidden_folder_is_one_clear_error(source, settings: Callable) -> None:
    source.fill(8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(source.write(), folder / "raw")
        (folder / "data").mkdir(mode=0o555)
        folder.chmod(0o755)
        expected = re.escape(f"{folder}/data/prepared: cannot be written: Permission denied")
        with unprivileged(), pytest.raises(CliplineError, match=expected):
            prepare(folder / "raw", folder / "data" / "prepared", *settings(), max_broken=0.0)


def test_data_that_is_a_file_is_one_clear_error(source, settings: Callable, tmp_path: Path) -> None:
    source.fill(8)
    (tmp_path / "data").write_text("")
    with pytest.raises(
        CliplineError, match=r"data/prepared: cannot be written: Not a directory. Fix: correct the path"
    ):
        prepare(source.write(), tmp_path / "data" / "prepared", *settings(), max_broken=0.0)
