"""Columns of paths in parquet, CSV and TSV."""

import base64
import csv
import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipline.embed.item import CellItem, Failure, FileItem
from clipline.embed.sources.table import ROWS, Table
from clipline.errors import CliplineError, UsageError


def paths(table: Table) -> list[str]:
    return [item.path for item in table if isinstance(item, FileItem)]


def parquet(file: Path, /, **columns) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=5000)
    return file


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_parquet_in_order_once_each(tmp_path):
    names = [f"{index % 7}/{index}.jpg" for index in range(300 * ROWS)]
    cells = [None, "", *names, names[0]]
    file = parquet(tmp_path / "t.parquet", id=list(range(len(cells))), path=cells)
    table = Table(file, "path")
    assert paths(table) == names
    assert paths(table) == names
    assert table.root == str(tmp_path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_parquet_kinds_of_text(tmp_path, kind):
    file = parquet(tmp_path / "t.parquet", path=pa.array(["a.jpg", "\u00e4/b.jpg", None, "a.jpg"]).cast(kind))
    assert paths(Table(file)) == ["a.jpg", "\u00e4/b.jpg"]


@pytest.mark.skipif(os.name != "posix", reason="names as Unix knows them")
def test_bytes_that_are_no_text_open(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"here")
    binary = parquet(tmp_path / "t.parquet", path=pa.array([b"caf\xe9.jpg"]))
    comma = text(tmp_path / "t.csv", b"path,caption\ncaf\xe9.jpg,caf\xe9\n")
    for file in (binary, comma):
        (item,) = Table(file)
        assert (item.path, item.read()) == ("caf%E9.jpg", b"here")


def test_columns_with_dots_beside_others(tmp_path):
    file = parquet(tmp_path / "t.parquet", **{"a": ["1.jpg"], "a.b": ["2.jpg"]})
    assert paths(Table(file, "a")) == ["1.jpg"]
    assert paths(Table(file, "a.b")) == ["2.jpg"]


def test_csv_quotes_newlines_and_blank_lines(tmp_path):
    content = '\ufeffcaption,path\n"one, two","a,b.jpg"\n\n"x ""y""","line\nbreak.jpg"\r\nempty,\nlast,c.jpg'
    assert paths(Table(text(tmp_path / "t.csv", content), "path")) == ["a,b.jpg", "line\nbreak.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("name", "mark"), [("t.csv", ","), ("t.csv", ";"), ("t.csv", "|"), ("t.tsv", "\t"), ("t.TSV", "\t")]
)
def test_delimiters(tmp_path, name, mark):
    rows = [["where", "caption"], ["a.jpg", "one"], ["b.jpg", "two"]]
    file = text(tmp_path / name, "\n".join(mark.join(row) for row in rows))
    assert paths(Table(file, "where")) == ["a.jpg", "b.jpg"]


def test_one_column_with_commas_in_a_tsv(tmp_path):
    assert paths(Table(text(tmp_path / "t.tsv", "anything\na,b.jpg\nc.jpg\n"))) == ["a,b.jpg", "c.jpg"]


def test_bad_rows_are_failures(tmp_path, monkeypatch):
    file = text(
        tmp_path / "t.csv", "path,caption\na.jpg,one\nb.jpg\nc.jpg,one,two\nd.jpg,last\n" + f"e.jpg,{'x' * 200_000}\n"
    )
    assert list(Table(file, "path"))[1:3] == [
        Failure(str(file), "scan", "line 3: 1 fields, where the header has 2"),
        Failure(str(file), "scan", "line 4: 3 fields, where the header has 2"),
    ]
    assert paths(Table(file, "path")) == ["a.jpg", "d.jpg", "e.jpg"]
    monkeypatch.setattr("clipline.embed.sources.table.MAX_FIELD", 1000)
    limit = csv.field_size_limit(1000)
    try:
        assert "field larger than field limit" in list(Table(file, "path"))[-1].reason
    finally:
        csv.field_size_limit(limit)


def test_the_column_that_is_meant(tmp_path):
    file = parquet(tmp_path / "t.parquet", caption=["x"], image=["a.jpg"])
    assert paths(Table(file)) == ["a.jpg"]
    for table, column, message in [
        (file, "photo", r"no column `photo`; it has: `caption`, `image`\. Fix: --column"),
        (
            parquet(tmp_path / "u.parquet", path=["x"], image=["a"]),
            None,
            "which column holds the images",
        ),
        (parquet(tmp_path / "v.parquet", x=["x"], y=["a"]), None, r"It has: `x`, `y`\."),
        (parquet(tmp_path / "w.parquet", path=[1]), None, "column `path` holds int64"),
        (
            parquet(tmp_path / "x.parquet", image=[{"data": b""}]),
            None,
            "column `image` holds struct<data: bin",
        ),
        (text(tmp_path / "a.csv", "x,y\n1,2\n"), "path", "it has: `x`, `y`"),
        (text(tmp_path / "b.csv", "path,path\n1,2\n"), "path", "more than one column `path`"),
        (text(tmp_path / "c.csv", ""), None, "It has: none"),
        (text(tmp_path / "d.csv", "path\na.jpg".encode("utf-16")), None, "UTF-16"),
        (text(tmp_path / "e.parquet", "no parquet at all"), None, "not a parquet file"),
        (tmp_path / "nowhere.csv", None, "no such file"),
    ]:
        with pytest.raises(UsageError, match=message):
            Table(table, column)


def test_a_damaged_page_ends_the_walk(tmp_path):
    """Half a list would make images look removed."""
    names = [f"{index}.jpg" for index in range(50_000)]
    file = parquet(tmp_path / "t.parquet", path=names)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20_000] = bytes(20_000)
    file.write_bytes(content)
    with pytest.raises(CliplineError, match=r"t\.parquet: cannot be read to its end: "):
        list(Table(file))


def test_root_and_patterns(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a")
    table = Table(text(tmp_path / "t.csv", "path\na.jpg\nb.png\n"), root=tmp_path / "photos", include=["*.jpg"])
    (item,) = table
    assert (item.path, item.read(), table.root) == ("a.jpg", b"a", str(tmp_path / "photos"))


def encoded(kind: str, colour: int = 200, size: int = 40) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (size, size), (colour, 20, 30)).save(data, kind)
    return data.getvalue()


JPEG, PNG = encoded("JPEG"), encoded("PNG")


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([JPEG, None, PNG]),
        pa.array([JPEG, None, PNG], pa.large_binary()),
        pa.array([{"bytes": JPEG, "path": None}, None, {"bytes": PNG, "path": None}]),
        pa.array([base64.b64encode(JPEG).decode(), "", base64.urlsafe_b64encode(PNG).decode()]),
        pa.array([f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}", None, str(PNG)]),
    ],
    ids=["bytes", "large", "hub", "base64", "text"],
)
def test_images_in_cells(tmp_path, cells):
    table = Table(parquet(tmp_path / "t.parquet", image=cells))
    assert table.holds_images
    for _ in range(2):
        assert list(table) == [CellItem("t.parquet/0", JPEG), CellItem("t.parquet/2", PNG)]
    assert next(iter(table)).stat().bytes == len(JPEG)


def test_images_in_csv(tmp_path):
    """Rows are counted as pandas does, and fields may be longer than the module csv allows."""
    large = encoded("BMP", size=300)
    cells = [base64.b64encode(large).decode(), f"data:;base64,{base64.b64encode(PNG).decode()}", "", "photos/a.jpg"]
    rows = "".join(f'"{cell}",x\n\n' for cell in cells)
    items = list(Table(text(tmp_path / "t.csv", f"image,caption\n{rows}"), "image"))
    assert items[:2] == [CellItem("t.csv/0", large), CellItem("t.csv/1", PNG)]
    assert [item.path for item in items[2:]] == ["photos/a.jpg"]


def test_names_of_the_hub(tmp_path):
    """Its {bytes, path} may hold either; names need not differ, and may be paths of another machine."""
    names = ["dog.jpg", "dog.jpg", "/home/u/cat.png", "a\x1b.jpg", "x" * 50]
    cells = [{"bytes": PNG, "path": name} for name in names] + [{"bytes": None, "path": "far/a.jpg"}]
    table = Table(parquet(tmp_path / "t.parquet", image=[*cells, {"bytes": b"", "path": "empty.jpg"}]))
    assert [item.path for item in table] == [
        *("t.parquet/0/dog.jpg", "t.parquet/1/dog.jpg", "t.parquet/2/cat.png", "t.parquet/3"),
        *(f"t.parquet/4/{'x' * 50}", "far/a.jpg", "t.parquet/6/empty.jpg"),
    ]
    chosen = Table(tmp_path / "t.parquet", include=["dog.jpg"], exclude=["0"])
    assert [item.path for item in chosen] == ["t.parquet/1/dog.jpg"]


def test_cells_that_are_neither_are_failures_of_their_rows(tmp_path):
    cells = ["a.jpg", "nul\0.jpg", "x/" * 100_000, "b.jpg"]
    table = Table(parquet(tmp_path / "t.parquet", path=cells))
    first, nul, long, last = table
    assert (first.path, last.path, table.holds_images) == ("a.jpg", "b.jpg", False)
    assert nul == Failure("t.parquet/1", "scan", r"neither an image nor a path: nul\x00.jpg")
    assert long.path == "t.parquet/2" and len(long.reason) < 180 and "(200,000 characters)" in long.reason


def test_garbage_is_named_in_brief(tmp_path):
    """A CSV of images without a header: the first image is taken for names."""
    header = ",".join(base64.b64encode(os.urandom(9000)).decode() for _ in range(30))
    with pytest.raises(UsageError) as caught:
        Table(text(tmp_path / "t.csv", f"{header}\n"), "image")
    assert len(str(caught.value)) < 4000


def test_few_images_are_in_memory(tmp_path):
    """Of a row group that holds a whole dataset only some rows are decoded at once."""
    file = tmp_path / "t.parquet"
    images = pa.table({"image": [PNG + bytes([n % 256]) * 100_000 for n in range(10 * ROWS)]})
    pq.write_table(images, file, write_batch_size=10, use_dictionary=False)
    del images
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in Table(file))
    assert most < 4 * ROWS * 100_000
