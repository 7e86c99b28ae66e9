"""The parts as one table: all full but the last, which the next run continues; smaller after drops."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipline.embed.parts import Parts
from clipline.embeddings.part import Row
from clipline.errors import CliplineError


def row(number: int) -> Row:
    return Row(f"{number:03d}.jpg", number, 1_700_000_000_000_000 + number, f"{number:064x}", 4, 3)


def vector(number: int) -> np.ndarray:
    return np.array([number, -number, 1], np.float16)


@pytest.fixture
def opened(tmp_path):
    return lambda part_rows=4: Parts(tmp_path, 3, "float16", part_rows)


def fill(parts: Parts, numbers) -> list:
    return [parts.add(row(number), vector(number)) for number in numbers]


def on_disk(folder) -> list[list[int]]:
    """The numbers in each part; each vector must be its row's."""
    numbers = []
    for path in sorted(folder.glob("data/part-*")):
        table = pq.read_table(path).to_pylist()
        assert all(np.array_equal(row["embedding"], vector(row["bytes"])) for row in table)
        numbers.append([row["bytes"] for row in table])
    return numbers


def test_full_parts_are_written_at_once_and_the_rest_when_flushed(opened, tmp_path):
    parts = opened()
    assert fill(parts, range(10))[-1] == (2, 1)
    assert on_disk(tmp_path) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (len(parts), parts.unsaved) == (10, 2)
    parts.flush()
    assert on_disk(tmp_path) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (parts.files, parts.unsaved) == (3, 0)


def test_a_short_part_without_new_rows_is_not_written_again(opened, tmp_path):
    parts = opened()
    fill(parts, range(3))
    parts.flush()
    before = (tmp_path / "data" / "part-00000.parquet").stat()
    opened().drop([])
    after = (tmp_path / "data" / "part-00000.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_existing_rows_come_back_as_they_were(opened):
    parts = opened()
    row_ids = fill(parts, range(6))
    parts.flush()
    again = opened()
    assert again.existing == list(zip(map(row, range(6)), row_ids, strict=True))
    assert all(np.array_equal(again.vector(row_id), vector(number)) for number, row_id in enumerate(row_ids))


@pytest.mark.parametrize("first", [0, 1, 4, 6, 8, 9])
def test_wherever_a_run_stops_the_parts_end_the_same(opened, tmp_path, first):
    parts = opened()
    fill(parts, range(first))
    parts.flush()
    parts = opened()
    fill(parts, range(first, 10))
    parts.flush()
    assert on_disk(tmp_path) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_vectors_are_given_from_memory_and_from_disk(opened):
    parts = opened()
    row_ids = fill(parts, range(20))
    for number in (0, 19, 7, 12, 1, 18, 5):
        assert np.array_equal(parts.vector(row_ids[number]), vector(number))


def test_a_vector_is_given_also_where_a_part_was_taken_up_and_filled(opened):
    """Copies of an image, and of an earlier run's, take the vector from there."""
    parts = opened()
    row_ids = fill(parts, range(2))
    parts.flush()
    parts = opened()
    row_ids += fill(parts, range(2, 6))
    assert all(np.array_equal(parts.vector(row_id), vector(number)) for number, row_id in enumerate(row_ids))


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, ...]]:
    """The columns of each read from a part."""
    seen = []
    read = pq.ParquetFile.read

    def watched(file, columns=None, **options):
        table = read(file, columns, **options)
        seen.append(tuple(table.column_names))
        return table

    monkeypatch.setattr(pq.ParquetFile, "read", watched)
    return seen


def test_opening_reads_no_vector_of_a_full_part(opened, reads):
    """So that a folder of millions of rows opens in seconds; their vectors are read where they are asked for."""
    parts = opened()
    row_ids = fill(parts, range(8))
    again = opened()
    assert reads == [("path", "bytes", "mtime", "sha256", "width", "height")] * 2
    reads.clear()
    for _ in range(3):
        again.vector(row_ids[0])
        again.vector(row_ids[7])
    assert reads == [("embedding",)] * 2


def test_vectors_of_few_parts_are_kept_in_memory(opened, reads):
    """However many parts a run reads vectors from."""
    parts = opened()
    row_ids = fill(parts, range(80))
    for _ in range(2):
        for number in range(0, 80, 4):
            assert np.array_equal(parts.vector(row_ids[number]), vector(number))
    assert len(reads) == 40


def test_dropping(opened, tmp_path):
    parts = opened()
    row_ids = fill(parts, range(10))
    parts.drop([row_ids[number] for number in (1, 4, 5, 6, 7, 8)])
    assert on_disk(tmp_path) == [[0, 2, 3], [9]]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["part-00000.parquet", "part-00002.parquet"]
    assert (len(parts), parts.files) == (4, 2)
    # The next run goes on in the last part, and takes no name twice.
    parts = opened()
    fill(parts, range(10, 14))
    parts.flush()
    assert on_disk(tmp_path) == [[0, 2, 3], [9, 10, 11, 12], [13]]
    assert sorted(path.name for path in (tmp_path / "data").iterdir())[-1] == "part-00003.parquet"


def test_dropping_a_whole_part_deletes_its_file(opened, tmp_path):
    parts = opened()
    parts.drop(fill(parts, range(6))[:4])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["part-00001.parquet"]
    assert on_disk(tmp_path) == [[4, 5]]
    assert (len(parts), parts.files) == (2, 1)


def test_dropping_all_of_the_only_part_leaves_it_empty(opened, tmp_path):
    parts = opened()
    parts.drop(fill(parts, range(3)))
    assert on_disk(tmp_path) == [[]]
    assert (len(parts), parts.files) == (0, 1)


def test_after_dropping_the_same_table_goes_on(opened, tmp_path):
    parts = opened()
    row_ids = fill(parts, range(6))
    assert np.array_equal(parts.vector(row_ids[0]), vector(0))
    parts.drop([row_ids[0], row_ids[4]])
    assert [int(parts.vector((0, index))[0]) for index in range(3)] == [1, 2, 3]
    assert np.array_equal(parts.vector((1, 0)), vector(5))
    assert fill(parts, [6, 7]) == [(1, 1), (1, 2)]
    parts.flush()
    assert on_disk(tmp_path) == [[1, 2, 3], [5, 6, 7]]


def test_a_part_that_cannot_be_deleted_is_named(opened, tmp_path, monkeypatch):
    parts = opened()
    row_ids = fill(parts, range(6))
    parts.flush()

    def refuse(path: Path, **_) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CliplineError) as caught:
        parts.drop(row_ids[:4])
    assert str(caught.value).startswith(
        f"{tmp_path / 'data' / 'part-00000.parquet'}: cannot be written: Operation not permitted. Fix: correct"
    )
    assert on_disk(tmp_path) == [[0, 1, 2, 3], [4, 5]]


def test_dropping_everything_leaves_one_empty_part(opened, tmp_path):
    parts = opened()
    parts.drop(fill(parts, range(6)))
    assert not any(on_disk(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    assert len(opened()) == 0


def test_an_empty_table_has_a_part(opened, tmp_path):
    opened().flush()
    assert on_disk(tmp_path) == [[]]
    assert pq.read_schema(tmp_path / "data" / "part-00000.parquet").names[-1] == "embedding"


def test_other_part_sizes_than_before(opened, tmp_path):
    parts = opened(4)
    fill(parts, range(10))
    parts.flush()
    for part_rows, expected in ((2, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10, 11], [12]]),):
        parts = opened(part_rows)
        fill(parts, range(10, 13))
        parts.flush()
        assert on_disk(tmp_path) == expected


def test_foreign_and_damaged_parts_are_named(opened, tmp_path):
    parts = opened()
    fill(parts, range(6))
    parts.flush()
    for content in (b"", b"PAR1 nonsense", (tmp_path / "data" / "part-00001.parquet").read_bytes()[:-20]):
        (tmp_path / "data" / "part-00001.parquet").write_bytes(content)
        with pytest.raises(CliplineError, match=r"part-00001\.parquet: damaged"):
            opened()
    (tmp_path / "data" / "part-00001.parquet").unlink()
    with pytest.raises(CliplineError, match="its columns are not those of 4 float16"):
        Parts(tmp_path, 4, "float16", 4)
