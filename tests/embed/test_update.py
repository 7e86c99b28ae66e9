"""A second run over a folder: what is unchanged stays, what changed is replaced, what must not mix is refused."""

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from clipline.embed.item import Failure
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel
from clipline.utils.files import locked
from tests import factories


class Counting(OnnxModel):
    """Counts the images that reach the model, padding left out (it is black)."""

    images = 0

    def embed_pixels(self, pixels):
        self.images += int(pixels.any(axis=(1, 2, 3)).sum())
        return super().embed_pixels(pixels)


@pytest.fixture
def model(bundle):
    return Counting(bundle, provider="cpu", threads=1)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def go(photos, model, out):
    """Embed the photos again -> (the summary, how many images the model saw)."""

    def run(**options):
        before = model.images
        summary = embed(Folder(photos), model, out, Options(**{"part_rows": 5, "batch_size": 4, **options}))
        return summary, model.images - before

    return run


def content(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def by_path(out):
    rows = factories.rows(out)
    assert len({row["path"] for row in rows}) == len(rows), "two rows of one path"
    return {row["path"]: row for row in rows}


def test_nothing_new_reads_no_image_and_leaves_the_parts(go, out, model, monkeypatch):
    assert go()[1] == 12
    before = content(out)
    monkeypatch.setattr("clipline.embed.item.FileItem.read", lambda item: pytest.fail(f"{item.path} was read"))
    summary, seen = go()
    assert (summary.unchanged, summary.embedded, seen, summary.rows) == (12, 0, 0, 12)
    assert "12 unchanged" in str(summary)
    after = content(out)
    assert {name: value for name, value in after.items() if name.startswith("part")} == {
        name: value for name, value in before.items() if name.startswith("part")
    }


def test_new_images_fill_the_last_part(go, out, photos):
    go()
    for index in range(4):
        factories.save(photos / f"zz-{index}.png", (index, 9, 100))
    summary, seen = go()
    assert (summary.embedded, summary.unchanged, seen) == (4, 12, 4)
    assert [len(rows) for rows in sizes(out)] == [5, 5, 5, 1]
    assert len(by_path(out)) == 16


def sizes(out):
    import pyarrow.parquet as pq

    return [pq.read_table(part) for part in sorted(out.glob("data/part-*"))]


def test_a_changed_image_is_replaced(go, out, photos):
    go()
    changed = photos / "red-0.png"
    factories.save(changed, (0, 0, 255), (33, 22))
    summary, seen = go()
    assert (summary.replaced, seen, summary.rows) == (1, 1, 12)
    row = by_path(out)["red-0.png"]
    assert (row["width"], row["height"], row["bytes"]) == (33, 22, changed.stat().st_size)
    assert np.allclose(row["embedding"], factories.unit((0, 0, 255)), atol=1e-3)


def test_touched_images_are_hashed_once_but_not_embedded(go, out, photos, monkeypatch):
    """As after cp -r: the rows take the new dates, and the next run reads nothing."""
    go()
    before = by_path(out)
    touched = ("red-0.png", "sub/blue-1.JPG")
    for name in touched:
        os.utime(photos / name, (5, 5))
    summary, seen = go()
    assert (summary.images, summary.unchanged, summary.replaced, summary.copies, seen) == (12, 12, 0, 0, 0)
    assert "(12 unchanged)" in str(summary)
    after = by_path(out)
    for name, row in after.items():
        expected = before[name]
        assert row == (expected | {"mtime": row["mtime"]} if name in touched else expected)
        assert (row["mtime"].timestamp() == 5) == (name in touched)
    monkeypatch.setattr("clipline.embed.item.FileItem.read", lambda item: pytest.fail(f"{item.path} was read"))
    assert go()[0].unchanged == 12


def test_images_that_are_gone_stay_until_pruned(go, out, photos):
    go()
    shutil.rmtree(photos / "sub")
    summary, _ = go()
    assert (summary.gone, summary.dropped, summary.rows) == (6, 0, 12)
    assert "--prune" in str(summary)
    summary, _ = go(prune=True)
    assert (summary.gone, summary.dropped, summary.rows) == (0, 6, 6)
    assert not any(path.startswith("sub/") for path in by_path(out))
    assert json.loads((out / "manifest.json").read_text())["counts"]["rows"] == 6


def test_pruning_spares_what_could_not_be_listed(model, out, photos):
    """A folder on a disk that is away must not cost its embeddings."""

    class Away(Folder):
        def __iter__(self):
            yield from (item for item in super().__iter__() if not item.path.startswith("sub/"))
            yield Failure("sub/", "scan", "Input/output error")

    embed(Folder(photos), model, out, Options())
    (photos / "red-0.png").unlink()
    summary = embed(Away(photos), model, out, Options(prune=True))
    assert (summary.dropped, summary.errors) == (1, 1)
    assert len(by_path(out)) == 11


def test_an_image_that_cannot_be_read_keeps_its_row_and_a_broken_one_loses_it(go, out, photos, monkeypatch):
    go()
    (photos / "red-0.png").write_text("no image any more")
    blue = photos / "blue-0.png"
    factories.save(blue, (5, 5, 5))
    read = type(next(iter(Folder(photos)))).read

    def fails(item):
        if item.path == "blue-0.png":
            raise OSError(5, "Input/output error")
        return read(item)

    monkeypatch.setattr("clipline.embed.item.FileItem.read", fails)
    summary, _ = go(prune=True)
    assert summary.errors == 2
    paths = by_path(out)
    assert "blue-0.png" in paths and "red-0.png" not in paths
    assert [row["stage"] for row in factories.errors(out)] == ["read", "decode"]


def test_errors_are_tried_again(go, out, photos):
    (photos / "red-0.png").write_text("no image yet")
    assert go()[0].errors == 1
    factories.save(photos / "red-0.png")
    summary, _ = go()
    assert (summary.errors, summary.embedded, summary.rows) == (0, 1, 12)
    assert factories.errors(out) == []


def test_equal_bytes_are_embedded_once_with_a_row_each(go, out, photos):
    for name in ("a.png", "sub/b.png", "zz/c.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "red-0.png", photos / name)
    summary, seen = go()
    assert (summary.embedded, summary.copies, seen, summary.rows) == (12, 3, 12, 15)
    rows = by_path(out)
    for name in ("a.png", "sub/b.png", "zz/c.png"):
        for key in ("embedding", "sha256", "width", "height"):
            assert rows[name][key] == rows["red-0.png"][key]
    shutil.copy(photos / "red-0.png", photos / "later.png")
    summary, seen = go()
    assert (summary.copies, seen) == (1, 0)
    assert by_path(out)["later.png"]["embedding"] == rows["red-0.png"]["embedding"]


def test_copies_of_a_broken_image_are_broken_too(go, out, photos):
    for name in ("a.png", "b.png", "c.png"):
        (photos / name).write_text("no image")
    summary, _ = go()
    assert (summary.errors, summary.rows) == (3, 12)
    assert [row["path"] for row in factories.errors(out)] == ["a.png", "b.png", "c.png"]
    assert {row["reason"] for row in factories.errors(out)} == {"not an image that Pillow can read"}


def test_the_original_may_change_while_its_copy_stays(go, out, photos):
    shutil.copy(photos / "red-0.png", photos / "z.png")
    go()
    old = by_path(out)["z.png"]["embedding"]
    factories.save(photos / "red-0.png", (9, 99, 9))
    (photos / "new.png").write_bytes((photos / "z.png").read_bytes())
    summary, seen = go()
    assert (summary.replaced, summary.copies, seen) == (1, 1, 1)
    rows = by_path(out)
    assert rows["z.png"]["embedding"] == rows["new.png"]["embedding"] == old != rows["red-0.png"]["embedding"]


def test_what_must_not_mix_is_refused(go, out, photos, model, make_bundle, tmp_path):
    go()
    before = content(out)
    other = OnnxModel(make_bundle(tmp_path / "other", model_id="shapes"), provider="cpu")
    refused = [
        (Folder(photos), other, Options(), "made by model colours, and this is shapes.*--overwrite"),
        (Folder(photos), model, Options(dtype="float32"), "holds float16, and float32 is asked for.*--dtype float16"),
        (Folder(photos / "sub"), model, Options(), r"holds images of \.\./photos .*and these are of \.\./photos/sub"),
    ]
    for source, chosen, options, message in refused:
        with pytest.raises(UsageError, match=message):
            embed(source, chosen, out, options)
        assert content(out) == before
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace(model.variant, "int8-123"))
    with pytest.raises(UsageError, match="made by variant int8-123 of this model"):
        go()
    manifest.unlink()
    with pytest.raises(UsageError, match=r"manifest\.json is missing"):
        go()


def test_a_damaged_part_is_named_and_costs_only_itself(go, out):
    go()
    part = out / "data" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CliplineError, match=r"part-00001\.parquet: damaged .*delete it and run again"):
        go()
    part.unlink()
    summary, seen = go()
    assert (seen, summary.rows) == (5, 12)
    assert len(by_path(out)) == 12


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_second_process_is_refused(go, photos, bundle, out, overwrite):
    go()
    before = content(out)
    half_written = out.with_name(".out.partial")
    half_written.mkdir()
    command = [sys.executable, "-c", "from clipline.cli import main; main()", "embed", photos, "--model", bundle]
    options = ["--out", out, "--provider", "cpu", *(["--overwrite"] if overwrite else [])]
    with locked(out, "busy"):
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "another process is embedding into it" in done.stderr
    assert content(out) == before
    assert half_written.exists()  # the first process may be filling it


def test_a_killed_replacement_is_cleaned_up(go, out, photos):
    """Killed between the new row's part and the end of the old one: the newer row counts."""
    go()
    factories.save(photos / "red-0.png", (0, 0, 255))

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipline.embed.parts.Parts.drop", killed)
        with pytest.raises(Killed):
            go()
    assert len([row for row in factories.rows(out) if row["path"] == "red-0.png"]) == 2
    summary, seen = go()
    assert (seen, summary.rows) == (0, 12)
    assert np.allclose(by_path(out)["red-0.png"]["embedding"], factories.unit((0, 0, 255)), atol=1e-3)


def test_no_thread_is_left(go, photos):
    before = threading.active_count()
    go()
    assert threading.active_count() == before
