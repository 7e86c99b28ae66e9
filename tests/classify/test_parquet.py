"""Labelled parquet files as the Hugging Face hub keeps them, written by `datasets` itself, and by others."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipline.classify.images import Images
from clipline.classify.labelled import open_labelled
from clipline.embed.item import Failure
from clipline.errors import CliplineError, UsageError
from tests import factories

NAMES = ["red", "light_blue", "and/or"]
COLOURS = [(250, 0, 0), (0, 0, 250), (0, 250, 0), (9, 9, 9)]


def png(colour) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "png")
    return stream.getvalue()


def write(path, labels, image="image", label="label"):
    """A parquet file by `datasets`; label -1 is a hidden one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.new("RGB", (8, 8), COLOURS[number]) for number in labels]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=NAMES)})
    datasets.Dataset.from_dict({image: images, label: labels}, features=features).to_parquet(path)
    return path


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def items(path, split=None) -> list[str]:
    return [item.path for item in open_labelled(path, split).source]


def test_what_datasets_writes(tmp_path):
    file = write(tmp_path / "part.parquet", [0, 1, 1, 2])
    opened = open_labelled(file)
    assert opened.classes == ["red", "light_blue", "and_or"] and opened.labels == ["red", "light blue", "and or"]
    rows = list(opened.source)
    assert [item.path for item in rows] == [
        "red/part.parquet/00000",
        "light_blue/part.parquet/00001",
        "light_blue/part.parquet/00002",
        "and_or/part.parquet/00003",
    ]
    assert [opened.class_of(item.path) for item in rows] == [0, 1, 1, 2]
    read_back = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    for item, row in zip(rows, read_back, strict=True):
        assert item.stat().bytes == len(item.read())
        assert np.array_equal(Image.open(io.BytesIO(item.read())), row["image"])


@pytest.mark.parametrize(
    "name", ["data/{}-00000-of-00001.parquet", "plain_text/{}/0000.parquet", "{}.parquet", "birds_{}_1.parquet"]
)
def test_splits(tmp_path, name):
    for split, labels in (("train", [0, 0, 2]), ("validation", [1])):
        write(tmp_path / "set" / name.format(split), labels)
    write(tmp_path / "set" / "data" / "unsupervised-00000-of-00001.parquet", [-1])
    (tmp_path / "set" / "README.md").write_text("A data set of the latest colours.")
    validation = name.format("validation")
    assert items(tmp_path / "set") == items(tmp_path / "set", "val") == [f"light_blue/{validation}/00000"]
    assert len(items(tmp_path / "set", "train")) == 3
    with pytest.raises(UsageError, match="no split 'test'; it has: train, val"):
        open_labelled(tmp_path / "set", "test")


def test_files_without_splits(tmp_path):
    write(tmp_path / "set" / "0.parquet", [0])
    write(tmp_path / "set" / "1.parquet", [2, 1])
    assert items(tmp_path / "set") == ["red/0.parquet/00000", "and_or/1.parquet/00000", "light_blue/1.parquet/00001"]
    with pytest.raises(UsageError, match=r"no split 'test'; it has: none\. Fix: leave out --split"):
        open_labelled(tmp_path / "set", "test")


def test_a_tree_of_images_stays_a_tree(tmp_path):
    for name in ("cat", "dog"):
        factories.save(tmp_path / "tree" / name / "1.png", "red", (8, 8))
    write(tmp_path / "tree" / "metadata.parquet", [0])
    assert open_labelled(tmp_path / "tree").classes == ["cat", "dog"]


@pytest.mark.parametrize("image", ["image", "img"])
@pytest.mark.parametrize("label", ["fine_label", "breed"])
def test_names_of_columns(tmp_path, image, label):
    assert items(write(tmp_path / "a.parquet", [1], image, label)) == ["light_blue/a.parquet/00000"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize(
    "image", [pa.binary(), pa.large_binary(), pa.struct({"path": pa.string(), "bytes": pa.binary()})]
)
def test_strings_as_labels(tmp_path, kind, image):
    data = [{"bytes": png("red")}] * 3 if pa.types.is_struct(image) else [png("red")] * 3
    file = table(tmp_path / "a.parquet", label=pa.array(["dog", "a cat", "dog"], kind), image=pa.array(data, image))
    opened = open_labelled(file)
    assert opened.classes == ["a cat", "dog"]
    assert [item.path.split("/")[0] for item in opened.source] == ["dog", "a cat", "dog"]
    assert {item.read() for item in opened.source} == {png("red")}


def test_rows_without_image_or_class_are_failures(tmp_path):
    rows = [{"bytes": png("red")}, None, {"bytes": None}, {"bytes": png("red")}]
    image = pa.array(rows, pa.struct({"bytes": pa.binary()}))
    rows = list(open_labelled(table(tmp_path / "a.parquet", image=image, label=["x", "x", "y", None])).source)
    assert [item.path for item in rows] == [
        "x/a.parquet/00000",
        "x/a.parquet/00001",
        "y/a.parquet/00002",
        "unlabelled/a.parquet/00003",
    ]
    assert [item.reason for item in rows if isinstance(item, Failure)] == [
        "the row holds no image",
        "the row holds no image",
        "the label None is none of the classes",
    ]
    hidden = list(open_labelled(write(tmp_path / "hidden.parquet", [0, -1])).source)
    assert hidden[1] == Failure("unlabelled/hidden.parquet/00001", "scan", "the label -1 is none of the classes")


IMAGES = [png("red")] * 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a", "b"], "label": [0, 1]}, r"`file` \(string\), `label` \(int64\); none holds images. Fix: name"),
        ({"image": ["a.jpg", "b.jpg"], "label": ["x", "y"]}, "none holds images"),
        ({"image": IMAGES, "caption": ["a", "b"]}, r"`caption` \(string\); none holds labels. Fix: name the column"),
        ({"image": IMAGES, "label": [0, 1]}, r"`label` \(int64\); `label` has no names. Fix: write strings, or Class"),
        ({"image": IMAGES, "label": [["x"], ["y", "z"]]}, "`label` has no names"),
    ],
)
def test_what_is_missing_is_said(tmp_path, columns, message):
    with pytest.raises(UsageError, match=message):
        open_labelled(table(tmp_path / "a.parquet", **columns))


def test_files_of_two_datasets(tmp_path):
    write(tmp_path / "0.parquet", [0])
    write(tmp_path / "1.parquet", [0], image="img")
    with pytest.raises(UsageError, match="its parquet files differ in columns or classes"):
        open_labelled(tmp_path)


def test_no_parquet(tmp_path):
    for name in ("a.parquet", "text.zip"):
        (tmp_path / name).write_text("no parquet")
        with pytest.raises(UsageError, match=f"{name}: not a parquet file that can be read"):
            open_labelled(tmp_path / name)
    schema = pa.schema({"image": pa.binary(), "label": pa.string()}, {"huggingface": '{"info": {"features": [1]}}'})
    pq.write_table(pa.table({"image": IMAGES, "label": ["x", "y"]}, schema), tmp_path / "odd.parquet")
    with pytest.raises(UsageError, match="not a parquet file"):
        open_labelled(tmp_path / "odd.parquet")


def test_a_damaged_file_is_no_short_dataset(tmp_path):
    file = tmp_path / "a.parquet"
    noise = np.random.default_rng(0)
    columns = {"image": [noise.bytes(20_000) for _ in range(100)], "label": ["x", "y"] * 50}
    pq.write_table(pa.table(columns), file, row_group_size=10, write_page_checksum=True, compression="zstd")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9000] = bytes(9000)
    file.write_bytes(data)
    source = open_labelled(file).source
    with pytest.raises(CliplineError, match=r"a.parquet: damaged: .*\. Fix: download it again"):
        list(source)


def test_images_are_counted_without_being_read(model, tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", [0, 1, 1])
    write(tmp_path / "b.parquet", [2])
    source = open_labelled(tmp_path).source
    monkeypatch.setattr("clipline.classify.parquet._read", None)
    assert Images(source, model).total == 4


def test_a_large_row_group_is_not_read_at_once(tmp_path):
    """300 MB in one row group, which takes less than half of it to walk."""
    image = np.random.default_rng(0).bytes(1_000_000)
    schema = pa.schema({"image": pa.binary(), "label": pa.string()})
    with pq.ParquetWriter(
        tmp_path / "a.parquet", schema, use_dictionary=False, compression="none", write_batch_size=10
    ) as writer:
        rows = pa.table({"image": [image] * 300, "label": ["x"] * 300}, schema)
        writer.write_table(rows, row_group_size=300)
    del rows
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for item in open_labelled(tmp_path / "a.parquet").source:
        most = max(most, pool.bytes_allocated() - before)
        assert item.stat().bytes == 1_000_000
    assert most < 150e6
