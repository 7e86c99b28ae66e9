"""Small datasets in every form that `clipline.data.sources.fetch` takes."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from clipline.config.base import validate
from clipline.config.dataset import Dataset


def photo(index: int, kind: str = "JPEG") -> bytes:
    """An image file that differs from those of other numbers."""
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (index * 37 % 256, index * 91 % 256, index % 256)).save(file, kind)
    return file.getvalue()


CAPTIONS = {
    "1_a.jpg": ['A dog , running " fast "', "A dog on grass"],
    "2_b.jpg": ["Two children, one in red", "Children play"],
    "3_c.jpg": ["Ein Hund läuft im Schnee", "A dog in snow"],
}
ROWS = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]


def csv_text(rows: list, header: str = "image,caption", **options) -> str:
    file = io.StringIO()
    file.write(header + "\n")
    csv.writer(file, lineterminator="\n", **options).writerows(rows)
    return file.getvalue()


def kaggle_layout() -> dict[str, bytes]:
    files = {f"Images/{name}": photo(index) for index, name in enumerate(CAPTIONS)}
    return files | {"captions.txt": csv_text(ROWS).encode()}


def original_layout() -> dict[str, bytes]:
    files = {f"Flicker8k_Dataset/{name}": photo(index) for index, name in enumerate(CAPTIONS)}
    lines = [f"{name}#{n}\t{text}\n" for name, captions in CAPTIONS.items() for n, text in enumerate(captions)]
    lines.append("2258277193_586949ec62.jpg.1#0\tPeople on atvs and dirt bikes .\n")
    return files | {"Flickr8k.token.txt": "".join(lines).encode()}


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    mode = {".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:
        root = tarfile.TarInfo("./")
        root.type = tarfile.DIRTYPE
        archive.addfile(root)
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write `files` as an archive of the kind that the suffix of `path` names, or as a folder if it has none."""
    return {"": write_folder, ".zip": write_zip}.get(path.suffix, write_tar)(path, files)


class Fetched(NamedTuple):
    """The contents of a raw folder."""

    source: dict
    rows: list[tuple[str, ...]]
    images: dict[str, bytes]
    folder: Path


def settings(kind: str, path: object, source: dict | None = None, expect: dict | None = None) -> Dataset:
    values = {
        "kind": kind,
        "path": None if path is None else str(path),
        "source": source or {},
        "expect": {"images": None, "captions": None} | (expect or {}),
        "captions": {},
        "split": {"kind": "hash"},
    }
    return validate(Dataset, values, "test.yaml")


def read_raw(folder: Path, source: dict) -> Fetched:
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    images = {path.name: path.read_bytes() for path in (folder / "images").iterdir()}
    return Fetched(source, rows, images, folder)
