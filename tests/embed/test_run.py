"""Embedding a folder: what is written, and that no earlier file is lost."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipline.embed.run import Options, embed
from clipline.embed.sources.files import Files
from clipline.embed.sources.folder import Folder
from clipline.errors import CliplineError, TooManyErrorsError, UsageError
from clipline.runtime.model import OnnxModel
from tests import factories


def embed_folder(folder, model, out, *, names=None, **options):
    source = Folder(folder, skip=out) if names is None else Files(folder, names)
    return embed(source, model, out, Options(**options))


@pytest.fixture
def model(bundle):
    return OnnxModel(bundle, provider="cpu", threads=1)


def listing(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its content's hash: what must stay the same where nothing may be lost."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_contract(photos, model, tmp_path):
    out = tmp_path / "new" / "out"
    summary = embed_folder(photos, model, out)
    assert sorted(path.name for path in out.iterdir()) == ["data", "errors.parquet", "manifest.json"]

    schema = pq.read_schema(out / "data" / "part-00000.parquet")
    names = ["path", "bytes", "mtime", "sha256", "width", "height", "embedding"]
    assert schema.names == names
    assert schema.field("embedding").type == pa.list_(pa.float16(), 3)
    rows = factories.rows(out)
    assert len(rows) == 12
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for row in rows:
        file = photos / row["path"]
        status = file.stat()
        assert (row["bytes"], row["height"]) == (status.st_size, 30)
        assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert int(row["mtime"].timestamp() * 1e6) == pytest.approx(status.st_mtime_ns // 1000, abs=1)
        assert row["width"] == 40 + int(file.stem[-1])
    assert factories.errors(out) == []
    assert pq.read_schema(out / "errors.parquet").names == ["path", "stage", "reason"]

    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == {
        "schema_version": 2,
        "model_id": "colours",
        "variant": model.variant,
        "dim": 3,
        "dtype": "float16",
        "counts": {"images": 12, "rows": 12, "errors": 0, "parts": 1},
        "complete": True,
        "root": "../../photos",
        "model": os.path.relpath(model.bundle.folder, out),
    }
    assert (summary.images, summary.rows, summary.errors, summary.parts) == (12, 12, 0, 1)
    assert "12 embeddings in 1 part, 0 errors" in str(summary)
    assert "CPU, 1 thread" in str(summary)
    summary.enforce(0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("float32", 1e-6)])
def test_vectors_belong_to_their_paths(tmp_path, model, dtype, tolerance):
    rng = np.random.default_rng(0)
    colours = {f"{index:02d}.png": tuple(int(c) for c in rng.integers(0, 256, 3)) for index in range(40)}
    for name, colour in colours.items():
        factories.save(tmp_path / "photos" / name, colour)
    embed_folder(tmp_path / "photos", model, tmp_path / "out", dtype=dtype, batch_size=7, threads=3, part_rows=9)
    rows = factories.rows(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(colours)
    for row in rows:
        # float32 pixels' mean loses the last digits before the vector is made.
        assert np.allclose(row["embedding"], factories.unit(colours[row["path"]]), atol=max(tolerance, 1e-5))
    assert pq.read_schema(tmp_path / "out" / "data" / "part-00000.parquet").field("embedding").type.value_type == (
        pa.float16() if dtype == "float16" else pa.float32()
    )


@pytest.mark.parametrize(("part_rows", "sizes"), [(5, [5, 5, 2]), (6, [6, 6]), (100, [12])])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_parts(photos, model, tmp_path, part_rows, sizes, batch_size):
    out = tmp_path / "out"
    summary = embed_folder(photos, model, out, part_rows=part_rows, batch_size=batch_size)
    parts = sorted(out.glob("data/part-*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == sizes
    assert summary.parts == len(sizes)
    paths = [row["path"] for row in factories.rows(out)]
    assert paths == sorted(paths)


def test_failures_are_listed_and_the_others_embedded(photos, model, tmp_path):
    whole = factories.save(tmp_path / "whole.jpg", size=(400, 300)).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").write_bytes(b"")
    (photos / "sub" / "text.jpg").write_text("hello")
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    factories.save(photos / "grey.png", (90, 90, 90))
    factories.save(photos / "white.png", (255, 255, 255))
    summary = embed_folder(photos, model, tmp_path / "out", batch_size=4, part_rows=3)
    failed = {row["path"]: (row["stage"], row["reason"]) for row in factories.errors(tmp_path / "out")}
    assert set(failed) == {"cut.jpg", "empty.png", "sub/text.jpg", "gone.png", "grey.png", "white.png"}
    assert failed["cut.jpg"][0] == "decode"
    assert "truncated" in failed["cut.jpg"][1]
    assert failed["empty.png"] == ("decode", "empty file")
    assert failed["sub/text.jpg"] == ("decode", "not an image that Pillow can read")
    assert failed["gone.png"] == ("read", "No such file or directory")
    assert failed["grey.png"] == ("infer", "the model gave a zero vector")
    assert failed["white.png"] == ("infer", "the model gave NaN")
    assert len(factories.rows(tmp_path / "out")) == 12
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts == {"images": 18, "rows": 12, "errors": 6, "parts": 4}

    summary.enforce(6)
    with pytest.raises(TooManyErrorsError, match=r"(?s)6 of 18 images failed.*cut\.jpg: decode: .*and 1 more"):
        summary.enforce(5)


def test_nothing_but_failures_leaves_a_readable_table(tmp_path, model):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        (tmp_path / "photos" / f"{index}.jpg").write_text("no")
    summary = embed_folder(tmp_path / "photos", model, tmp_path / "out", batch_size=2)
    assert (summary.rows, summary.errors) == (0, 3)
    assert pq.read_table(tmp_path / "out" / "data" / "part-00000.parquet").num_rows == 0
    assert len(factories.errors(tmp_path / "out")) == 3


def test_many_failures(tmp_path, model):
    (tmp_path / "photos").mkdir()
    for index in range(2100):
        (tmp_path / "photos" / f"{index:04d}.jpg").write_bytes(b"")
    factories.save(tmp_path / "photos" / "good.png")
    embed_folder(tmp_path / "photos", model, tmp_path / "out")
    assert [row["path"] for row in factories.errors(tmp_path / "out")] == [f"{index:04d}.jpg" for index in range(2100)]


def test_chosen_names(photos, model, tmp_path):
    names = ["sub/red-1.JPG", "blue-0.png", "not-there.png"]
    summary = embed_folder(photos, model, tmp_path / "out", names=names)
    assert [row["path"] for row in factories.rows(tmp_path / "out")] == ["blue-0.png", "sub/red-1.JPG"]
    assert [row["path"] for row in factories.errors(tmp_path / "out")] == ["not-there.png"]
    assert summary.errors == 1


@pytest.mark.skipif(os.name != "posix", reason="names that are no text exist on Unix alone")
def test_names_that_are_no_text(tmp_path, model):
    folder = tmp_path / os.fsdecode(b"d\xe9p\xf4t")
    factories.save(folder / os.fsdecode(b"caf\xe9.png"))
    embed_folder(folder, model, tmp_path / "out")
    assert [row["path"] for row in factories.rows(tmp_path / "out")] == ["caf%E9.png"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["root"] == "../d%E9p%F4t"


def test_stable_runs_give_the_same_bytes(photos, model, tmp_path):
    for name, threads in (("a", 1), ("b", 3)):
        for image in photos.rglob("*.*"):
            os.utime(image, (1, 1_000_000 + threads))
        embed_folder(photos, model, tmp_path / name / "out", stable=True, threads=threads, part_rows=5, batch_size=4)
    assert listing(tmp_path / "a") == {**listing(tmp_path / "b")}
    assert pq.read_table(tmp_path / "a" / "out" / "data" / "part-00000.parquet")["mtime"].null_count == 5


def test_bad_places(photos, model, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out"
    for folder, target, message in [
        (tmp_path / "none", out, "none: no such folder"),
        (tmp_path / "file", out, "file: is a file"),
        (tmp_path / "empty", out, "empty: no images in it"),
        (photos, tmp_path / "file", "file: is a file"),
        (photos, tmp_path / "dangling", "leads nowhere"),
    ]:
        with pytest.raises(UsageError, match=message):
            embed_folder(folder, model, target)
        assert not out.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_anything_else_is_never_touched(photos, model, tmp_path, overwrite):
    """Above all the images' own folder, named as the output by mistake."""
    before = listing(photos)
    with pytest.raises(UsageError, match="no part of embeddings"):
        embed_folder(photos, model, photos, overwrite=overwrite)
    assert listing(photos) == before

    out = tmp_path / "out"
    embed_folder(photos, model, out)
    (out / "gallery.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"gallery\.png"):
        embed_folder(photos, model, out, overwrite=overwrite)
    assert (out / "gallery.png").read_bytes() == b"mine"


def test_overwrite_embeds_all_images_again(photos, model, tmp_path):
    out = tmp_path / "out"
    embed_folder(photos, model, out, part_rows=2)
    factories.save(photos / "new.png", (1, 2, 3))
    mode = out.stat().st_mode
    summary = embed_folder(photos, model, out, overwrite=True)
    assert (summary.embedded, summary.unchanged, summary.rows) == (13, 0, 13)
    assert sorted(path.name for path in out.iterdir()) == ["data", "errors.parquet", "manifest.json"]
    assert out.stat().st_mode == mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


class Breaks(OnnxModel):
    """The colour model, of which the third batch fails."""

    calls = 0

    def embed_pixels(self, pixels):
        self.calls += 1
        if self.calls == 3:
            raise CliplineError("the model broke")
        return super().embed_pixels(pixels)


def test_a_failure_half_way_keeps_the_old_embeddings(photos, bundle, model, tmp_path):
    out = tmp_path / "out"
    embed_folder(photos, model, out)
    before = listing(out)
    with pytest.raises(CliplineError, match="the model broke"):
        embed_folder(photos, Breaks(bundle, provider="cpu"), out, overwrite=True, batch_size=4, part_rows=3)
    assert listing(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


def test_a_failure_half_way_keeps_what_was_embedded_and_the_next_run_goes_on(photos, bundle, model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(CliplineError, match="the model broke"):
        embed_folder(photos, Breaks(bundle, provider="cpu"), out, batch_size=4, part_rows=3)
    assert [len(pq.read_table(part)) for part in sorted(out.glob("data/part-*"))] == [3, 3, 2]
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    assert [path.name for path in out.glob(".*")] == []
    summary = embed_folder(photos, model, out, batch_size=4, part_rows=3)
    assert (summary.embedded, summary.unchanged) == (4, 8)
    whole = tmp_path / "whole"
    embed_folder(photos, model, whole, batch_size=4, part_rows=3)
    assert listing(out) == listing(whole)


def test_a_failure_before_the_first_row_leaves_nothing(photos, bundle, tmp_path):
    broken = Breaks(bundle, provider="cpu")
    broken.calls = 2
    with pytest.raises(CliplineError, match="the model broke"):
        embed_folder(photos, broken, tmp_path / "out", batch_size=4)
    assert not (tmp_path / "out").exists()


def test_output_inside_the_images(photos, model):
    factories.save(photos / "out.png")
    embed_folder(photos, model, photos / "out")
    embed_folder(photos, model, photos / "out", overwrite=True)
    assert len(factories.rows(photos / "out")) == 13
    assert json.loads((photos / "out" / "manifest.json").read_text())["root"] == ".."


def test_a_swap_that_fails_puts_the_old_back(photos, model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    embed_folder(photos, model, out)
    before = listing(out)
    real = Path.rename

    def rename(self, target):
        if Path(target) == out and self.name.endswith(".partial"):  # the new folder into its place
            raise OSError(16, "Device or resource busy")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(CliplineError, match=r"cannot be replaced: Device or resource busy\. Fix: .*; it is as it was"):
        embed_folder(photos, model, out, overwrite=True, part_rows=2)
    assert listing(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
