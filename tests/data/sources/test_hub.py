"""Hugging Face datasets: local folders in each layout, a hub of our own, and a hub that is not there."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipline.errors import CliplineError, UsageError

ROOT = Path(__file__).parents[3]
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "src")])
COLUMNS = {"image_column": "image", "caption_column": "text"}
TEXTS = [["one", "uno"], ["two"], ["three"]]


@pytest.fixture
def parquet(data, tmp_path):
    """parquet(images, texts, **columns) -> a folder with one parquet file."""

    def write(images, texts=TEXTS, **columns):
        folder = tmp_path / "set"
        folder.mkdir()
        pq.write_table(pa.table({"image": images, "text": texts, **columns}), folder / "train-00000.parquet")
        return folder

    return write


def structs(images, paths=None):
    return [{"bytes": image, "path": path} for image, path in zip(images, paths or [None] * len(images), strict=True)]


def test_parquet_keeps_the_original_bytes_and_their_names(data, fetch, parquet):
    photos = [data.photo(1), data.photo(2, "PNG"), data.photo(3, "WEBP")]
    folder = parquet(structs(photos, ["x/a.jpg", None, "b"]))
    found = fetch("hf", folder, COLUMNS)
    assert found.images == {"a.jpg": photos[0], "00000001.png": photos[1], "b.webp": photos[2]}
    assert found.rows[1:] == [("a.jpg", "one"), ("a.jpg", "uno"), ("00000001.png", "two"), ("b.webp", "three")]


def test_several_caption_columns_and_lists_as_text(data, fetch, parquet):
    more = ['["uno", "ein"]', "zwei", None]
    folder = parquet(structs([data.photo(n) for n in range(3)]), more=more)
    found = fetch("hf", folder, COLUMNS | {"caption_column": ["text", "more"]})
    assert [row[1] for row in found.rows[1:]] == ["one", "uno", "uno", "ein", "two", "zwei", "three"]


def test_an_image_in_several_rows_is_one_image(data, fetch, parquet):
    """As two raw images it could be in train and in test."""
    photos = [data.photo(1), data.photo(2), data.photo(1)]
    found = fetch("hf", parquet(structs(photos), ["one", "two", "three"]), COLUMNS)
    assert found.rows[1:] == [("00000000.jpg", "one"), ("00000001.jpg", "two"), ("00000000.jpg", "three")]
    assert found.source["skipped"]["repeated_images"] == 1


def test_different_images_of_one_name_are_kept_apart(data, fetch, parquet):
    photos = [data.photo(n) for n in range(3)]
    found = fetch("hf", parquet(structs(photos, ["cat/1.jpg", "dog/1.jpg", "dog/1.JPG"])), COLUMNS)
    assert found.images == dict(zip(["1.jpg", "1_00000001.jpg", "1_00000002.JPG"], photos, strict=True))


def test_plain_bytes_and_pixel_arrays_are_images_too(data, fetch, parquet, tmp_path):
    found = fetch("hf", parquet([data.photo(1), data.photo(2, "GIF"), b"not an image"]), COLUMNS)
    assert found.images == {
        "00000000.jpg": data.photo(1), "00000001.gif": data.photo(2, "GIF"), "00000002.bin": b"not an image",
    }  # fmt: skip
    found.folder.rename(tmp_path / "done")
    (tmp_path / "set").rename(tmp_path / "old")
    pixels = [[[[n, 2, 3], [4, 5, 6]]] for n in range(3)]
    found = fetch("hf", parquet(pa.array(pixels, pa.list_(pa.list_(pa.list_(pa.uint8()))))), COLUMNS)
    assert Image.open(io.BytesIO(found.images["00000002.png"])).getpixel((0, 0)) == (2, 2, 3)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_base64_and_data_uris_are_images_too(kind, data, fetch, parquet):
    texts = [base64.b64encode(data.photo(n)).decode() for n in range(3)]
    found = fetch("hf", parquet(pa.array([texts[0], f"data:image/jpeg;base64,{texts[1]}", texts[2]], kind)), COLUMNS)
    assert found.images == {f"{n:08d}.jpg": data.photo(n) for n in range(3)}


@pytest.mark.parametrize("path", ["a\0.jpg", "x" * 216_717, "no such.jpg"])
def test_a_bad_path_is_a_missing_image_of_its_row(path, data, fetch, parquet):
    folder = parquet(structs([None, data.photo(1)], [path, None]), ["x", "y"])
    with pytest.raises(CliplineError, match=r"1 images that are not there: \(row 0: ") as caught:
        fetch("hf", folder, COLUMNS)
    assert len(str(caught.value)) < 600
    assert fetch("hf", folder, COLUMNS, expect={"images": 1}).rows[1:] == [("00000001.jpg", "y")]


def test_a_long_name_keeps_its_start(data, fetch, parquet):
    photos = [data.photo(n) for n in range(3)]
    found = fetch("hf", parquet(structs(photos, ["é" * 300 + ".jpg", "ß" * 300, "c.jpg"])), COLUMNS)
    assert sorted(found.images) == sorted(["é" * 75 + ".jpg", "ß" * 75 + ".jpg", "c.jpg"])


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
def test_imagefolder(table, data, fetch, tmp_path):
    names = ["a.jpg", "sub/b.jpg", "c.jpg"]
    folder = data.write_folder(tmp_path / "set", {name: data.photo(n) for n, name in enumerate(names)})
    if table.endswith("csv"):
        (folder / table).write_text(data.csv_text(zip(names, "xyz", strict=True), "file_name,text"))
    else:
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in zip(names, "xyz", strict=True)]
        (folder / table).write_text("\n".join(lines))
    found = fetch("hf", folder, COLUMNS)
    assert sorted(found.rows[1:]) == [("a.jpg", "x"), ("b.jpg", "y"), ("c.jpg", "z")]
    assert found.images == {Path(name).name: data.photo(n) for n, name in enumerate(names)}


@pytest.mark.parametrize("splits", [True, False])
def test_saved_to_disk_with_a_split_column_of_labels(splits, data, fetch, tmp_path):
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "part": datasets.ClassLabel(names=["train", "test"]),
        }
    )
    rows = {"image": structs([data.photo(n) for n in range(3)]), "text": ["x", "y", "z"], "part": [0, 1, 0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table = datasets.DatasetDict({"all": table}) if splits else table
    table.save_to_disk(tmp_path / "set")
    found = fetch("hf", tmp_path / "set", COLUMNS | {"split_column": "part", "hub_split": "all"})
    assert found.rows[0] == ("image", "caption", "split")
    assert [row[1:] for row in found.rows[1:]] == [("x", "train"), ("y", "test"), ("z", "train")]
    if splits:
        found.folder.rename(tmp_path / "done")
        with pytest.raises(UsageError, match="no split `train`; it has: all"):
            fetch("hf", tmp_path / "set", COLUMNS)


def test_rows_without_caption_or_image_are_counted_or_named(data, fetch, parquet):
    photos = [data.photo(1), data.photo(2), None]
    folder = parquet(structs(photos), pa.array([["one", None], [], ["three"]], pa.list_(pa.string())))
    with pytest.raises(CliplineError, match=r"1 images that are not there: \(row 2: no image\)"):
        fetch("hf", folder, COLUMNS)
    found = fetch("hf", folder, COLUMNS, expect={"images": 1})
    assert found.rows[1:] == [("00000000.jpg", "one")]
    skipped = {"captions_without_image": 1, "images_without_caption": 1, "repeated_images": 0}
    assert found.source["skipped"] == skipped


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.jpg"])
def test_a_table_cannot_name_files_outside_its_folder(path, data, fetch, parquet, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    with pytest.raises(CliplineError, match="row 0: unsafe"):
        fetch("hf", parquet(structs([None], [path]), ["x"]), COLUMNS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_column": "photo"}, "no column `photo`; it has: image, text, n"),
        ({"caption_column": "caption"}, "no column `caption`"),
        ({"split_column": "fold"}, "no column `fold`"),
        ({"image_column": "n"}, "column `n` holds no images"),
        ({"caption_column": "n"}, "column `n` holds no text"),
        ({"hub_split": "test"}, 'Unknown split "test"'),
    ],
)
def test_wrong_columns_and_splits_name_those_there_are(columns, message, data, fetch, parquet):
    folder = parquet(structs([data.photo(n) for n in range(3)]), n=[1, 2, 3])
    with pytest.raises(CliplineError, match=message):
        fetch("hf", folder, COLUMNS | columns)


@pytest.mark.parametrize("content", [{}, {"a.parquet": b"PAR1 broken"}])
def test_a_folder_that_is_no_dataset_is_one_line(content, data, fetch, tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(CliplineError, match="cannot be loaded") as caught:
        fetch("hf", data.write_folder(tmp_path / "set", content), COLUMNS)
    assert len(str(caught.value).splitlines()) == 1


FETCH = """
import sys
from pathlib import Path
from clipline.config.base import validate
from clipline.config.dataset import Dataset
from stages.common import run_stage
def main():
    from clipline.data.sources import fetch
    values = dict(kind="hf", path=sys.argv[2], source=dict(image_column="image", caption_column="text"), captions={},
                  expect=dict(images=None, captions=None), split=dict(kind="hash"))
    fetch(validate(Dataset, values, "x"), Path(sys.argv[1], "raw"), Path(sys.argv[1], "cache", "x"))
run_stage(main)
"""


@pytest.fixture
def fetch_from(tmp_path):
    """fetch_from(endpoint, dataset id) -> the finished process, with an empty cache of its own."""

    def run(endpoint: str, name: str) -> subprocess.CompletedProcess:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": PYTHONPATH}
        command = [sys.executable, "-c", FETCH, str(tmp_path), name]
        # A stage locks the folder that it runs in.
        return subprocess.run(
            command, cwd=tmp_path, env=kept | own, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.mark.parametrize("silent", [True, False])
def test_a_hub_that_cannot_be_reached_fails_in_seconds(silent, fetch_from):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if not silent:
            listener.close()
        port = listener.getsockname()[1] if silent else 9
        start = time.monotonic()
        done = fetch_from(f"http://127.0.0.1:{port}", "someone/photos")
    assert done.returncode == 1
    assert time.monotonic() - start < 25
    assert len(done.stderr.strip().splitlines()) == 1
    assert "someone/photos: cannot be loaded (the hub cannot be reached)" in done.stderr


class FakeHub:
    """As much of the hub as `datasets` needs to load one public dataset of one parquet file."""

    def __init__(self, name: str, content: bytes) -> None:
        commit, file = "0" * 39 + "1", "train-00000-of-00001.parquet"
        entry = {"type": "file", "path": file, "size": len(content), "oid": "a" * 40}
        info = {"id": name, "sha": commit, "private": False, "gated": False, "siblings": [{"rfilename": file}]}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = unquote(urlsplit(self.path).path)
                if path == f"/datasets/{name}/resolve/{commit}/{file}":
                    self.reply(200, content, {"ETag": '"etag"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})
                elif path.startswith(f"/datasets/{name}/resolve/"):
                    self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                elif path.startswith(f"/api/datasets/{name}/tree/"):
                    if path.endswith(commit):
                        self.reply(200, json.dumps([entry]).encode())
                    else:
                        self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                elif path.startswith(f"/api/datasets/{name}/paths-info/"):
                    self.reply(200, json.dumps([entry] if file in self.asked else []).encode())
                elif path in (f"/api/datasets/{name}", f"/api/datasets/{name}/revision/{commit}"):
                    self.reply(200, json.dumps(info).encode())
                else:
                    self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_GET

            def do_POST(self):
                self.asked = unquote(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.do_GET()

            def reply(self, status, body, headers=None):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for key, value in (headers or {"Content-Type": "application/json"}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.commit = commit
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=[0.05], daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def test_a_dataset_of_the_hub_and_its_copy_when_offline(data, fetch_from, parquet, tmp_path):
    folder = parquet(structs([data.photo(n) for n in range(3)]))
    hub = FakeHub("someone/photos", next(folder.iterdir()).read_bytes())
    unknown = fetch_from(hub.address, "someone/else")
    assert (unknown.returncode, len(unknown.stderr.strip().splitlines())) == (2, 1)
    assert "someone/else: no such folder, and no dataset of that name" in unknown.stderr
    done = fetch_from(hub.address, "someone/photos")
    assert done.returncode == 0, done.stderr
    source = json.loads((tmp_path / "raw" / "source.json").read_text())
    assert (source["images"], source["captions"], source["revision"]) == (3, 4, hub.commit)
    hub.close()
    (tmp_path / "raw").rename(tmp_path / "first")
    again = fetch_from(hub.address, "someone/photos")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "raw" / "captions.csv").read_text() == (tmp_path / "first" / "captions.csv").read_text()
