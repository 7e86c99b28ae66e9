"""The output folder: what its manifest says at every moment, what is tidied up, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipline.embed.item import Failure
from clipline.embed.parts import Parts
from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Counts, Identity, read
from clipline.embeddings.part import ERROR_SCHEMA, Row
from clipline.errors import CliplineError, UsageError

IDENTITY = Identity(
    model_id="colours", variant="fp32-0a1b", dim=3, dtype="float16", root="../Fotos für Oma", model="../models/onnx"
)
AGAIN = "Fix: choose another --out, or embed all images again with --overwrite"


def row(number: int) -> Row:
    return Row(f"{number:03d}.jpg", number, 1_700_000_000_000_000 + number, f"{number:064x}", 4, 3)


def vector(number: int) -> np.ndarray:
    return np.array([number, -number, 1], np.float16)


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def fill(out: Path, numbers, failures=()) -> list:
    """A complete run; the ids of its rows."""
    with Writer(out, IDENTITY, 4) as writer:
        row_ids = [writer.add(row(number), vector(number)) for number in numbers]
        for failure in failures:
            writer.fail(failure)
        writer.finish([])
    return row_ids


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def numbers(out: Path) -> list[int]:
    return [row["bytes"] for part in sorted(out.glob("data/part-*")) for row in pq.read_table(part).to_pylist()]


def test_from_the_first_row_to_the_end_a_new_folder_is_not_complete(out):
    with Writer(out, IDENTITY, 4) as writer:
        assert list(out.iterdir()) == []
        assert [writer.add(row(number), vector(number)) for number in range(5)] == [*((0, n) for n in range(4)), (1, 0)]
        manifest = read(out)
        assert (manifest.identity, manifest.complete) == (IDENTITY, False)
        assert manifest.counts == Counts(images=0, rows=0, errors=0, parts=0)
        writer.fail(Failure("broken.jpg", "decode", "empty file"))
        manifest_after = writer.finish([])
    assert manifest_after == read(out)
    assert (manifest_after.identity, manifest_after.complete) == (IDENTITY, True)
    assert manifest_after.counts == Counts(images=6, rows=5, errors=1, parts=2)


def test_a_folder_that_grows_is_not_complete_and_still_says_what_it_held(out):
    fill(out, range(5), [Failure("broken.jpg", "decode", "empty file")])
    with Writer(out, IDENTITY, 4) as writer:
        assert read(out).complete
        writer.add(row(5), vector(5))
        assert read(out).complete is False
        assert read(out).counts == Counts(images=6, rows=5, errors=1, parts=2)
        assert writer.finish([]).counts == Counts(images=6, rows=6, errors=0, parts=2)
    assert numbers(out) == list(range(6))


def test_a_kill_while_rows_are_dropped_leaves_a_folder_that_is_not_complete(out, monkeypatch):
    row_ids = fill(out, range(5))

    class Killed(BaseException):
        pass

    def killed(*_) -> None:
        raise Killed

    monkeypatch.setattr(Parts, "drop", killed)
    with pytest.raises(Killed), Writer(out, IDENTITY, 4) as writer:
        writer.finish(row_ids[:1])
    assert read(out).complete is False


def test_dropped_rows_are_gone_and_not_counted(out):
    row_ids = fill(out, range(5))
    with Writer(out, IDENTITY, 4) as writer:
        assert writer.finish([row_ids[1], row_ids[4]]).counts == Counts(images=3, rows=3, errors=0, parts=1)
    assert numbers(out) == [0, 2, 3]
    assert read(out).complete


def test_the_empty_part_of_a_folder_without_rows_is_counted(out):
    with Writer(out, IDENTITY, 4) as writer:
        writer.fail(Failure("broken.jpg", "decode", "empty file"))
        assert writer.finish([]).counts == Counts(images=1, rows=0, errors=1, parts=1)
    assert len(list(out.glob("data/part-*"))) == 1
    row_ids = fill(out, range(4))
    with Writer(out, IDENTITY, 4) as writer:
        assert writer.finish(row_ids).counts == Counts(images=0, rows=0, errors=0, parts=1)
    assert len(list(out.glob("data/part-*"))) == 1


def test_the_manifest_is_written_once_before_the_rows_and_once_after(out, monkeypatch):
    """Not for each row: it is flushed to disk each time."""
    written = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (written.append(target.name), replace(path, target))[1])
    fill(out, range(3))
    assert written == ["manifest.json", "part-00000.parquet", "errors.parquet", "manifest.json"]


def test_the_manifest_is_readable_text(out):
    fill(out, range(1))
    text = (out / "manifest.json").read_bytes().decode()
    assert text.startswith('{\n  "model_id": "colours",\n') and text.endswith("}\n")
    assert '"root": "../Fotos für Oma"' in text
    assert json.loads(text)["counts"] == {"images": 1, "rows": 1, "errors": 0, "parts": 1}


def test_an_error_saves_the_rows_that_were_added(out):
    with pytest.raises(CliplineError, match="the model broke"), Writer(out, IDENTITY, 4) as writer:
        for number in range(6):
            writer.add(row(number), vector(number))
        raise CliplineError("the model broke")
    assert numbers(out) == list(range(6))
    assert read(out).complete is False


def test_an_error_before_the_first_row_changes_nothing(out):
    fill(out, range(5))
    before = content(out)
    with pytest.raises(CliplineError, match="the model broke"), Writer(out, IDENTITY, 4):
        raise CliplineError("the model broke")
    assert content(out) == before


@pytest.mark.parametrize("failures", [[], [Failure("a.jpg", "read", "gone"), Failure("b.jpg", "infer", "NaN")]])
def test_failures_are_a_table_of_text_even_where_there_are_none(out, failures):
    fill(out, range(2), failures)
    table = pq.read_table(out / "errors.parquet")
    assert table.schema.equals(ERROR_SCHEMA)
    assert table.to_pylist() == [{"path": f.path, "stage": f.stage, "reason": f.reason} for f in failures]


def test_what_a_killed_process_left_is_tidied_up_and_nothing_else(out):
    fill(out, range(5))
    before = content(out)
    for name in (".manifest.json.17.tmp", ".errors.parquet.4242.tmp", ".part-00001.parquet.9.tmp"):
        (out / name).write_bytes(b"half")
    (out / ".keep.tmp").write_bytes(b"somebody's")
    Writer(out, IDENTITY, 4)
    assert content(out) == before | {".keep.tmp": b"somebody's"}


def test_what_cannot_be_tidied_up_is_one_line(out):
    (out / ".manifest.json.17.tmp").mkdir()
    with pytest.raises(CliplineError) as caught:
        Writer(out, IDENTITY, 4)
    assert str(caught.value).startswith(f"{out}: cannot be written: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_id": "shapes"}, f"made by model colours, and this is shapes. {AGAIN}"),
        (
            {"variant": "int8-0a1b"},
            "made by variant fp32-0a1b of this model, and this is int8-0a1b: their vectors differ a little. "
            f"{AGAIN}, or choose its --precision",
        ),
        ({"dtype": "float32"}, f"holds float16, and float32 is asked for. {AGAIN}, or --dtype float16"),
        ({"dim": 4}, f"holds float16, and float16 is asked for. {AGAIN}, or --dtype float16"),
        (
            {"root": "../other"},
            f"holds images of ../Fotos für Oma (relative to it), and these are of ../other. {AGAIN}; if the images "
            "only moved, set `root` in its manifest.json",
        ),
    ],
)
def test_embeddings_that_must_not_mix_are_refused_with_a_fix(out, change, message):
    fill(out, range(5))
    before = content(out)
    with pytest.raises(UsageError) as caught:
        Writer(out, IDENTITY.model_copy(update=change), 4)
    assert str(caught.value) == f"{out}: {message}"
    assert content(out) == before


def test_a_model_that_only_moved_goes_on(out):
    fill(out, range(5))
    moved = IDENTITY.model_copy(update={"model": "../elsewhere"})
    with Writer(out, moved, 4) as writer:
        assert writer.finish([]).identity == moved


def test_parts_without_a_manifest_are_refused_with_a_fix(out):
    fill(out, range(5))
    (out / "manifest.json").unlink()
    with pytest.raises(UsageError) as caught:
        Writer(out, IDENTITY, 4)
    assert str(caught.value) == f"{out}: its manifest.json is missing: the model of its parts is unknown. {AGAIN}"


def test_a_disk_that_refuses_the_manifest_is_named(out, monkeypatch):
    def refuse(*_) -> None:
        raise OSError(28, "No space left on device")

    with Writer(out, IDENTITY, 4) as writer:
        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(CliplineError) as caught:
            writer.add(row(0), vector(0))
    path = out / "manifest.json"
    assert str(caught.value).startswith(
        f"{path}: cannot be written: No space left on device. Fix: free some space there"
    )
    assert list(out.iterdir()) == []
