"""Raw images and captions -> data/prepared: filter, split, pack, tokenise, and account for what is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipline.config.dataset import Dataset, OfficialSplit
from clipline.config.recipe import Recipe
from clipline.data import report, splits, tokenizer
from clipline.data.captions import Caption, Dropped, filter_captions, read_captions, without_repeats
from clipline.data.images import Images, absent_from
from clipline.data.tokenizer import Encoded
from clipline.errors import CliplineError
from clipline.image import Preprocess
from clipline.pictures import plots
from clipline.utils import checksums
from clipline.utils.files import atomic_folder
from clipline.utils.remedies import why


def prepare(raw: Path, out: Path, dataset: Dataset, recipe: Recipe, *, max_broken: float) -> dict[str, Any]:
    """Read `raw` (images/, captions.csv), write `out` (which `prepared` reads), and return its report.

    Of the dataset it uses `captions` and `split`, of the recipe `inputs`, `text.name` and `text.weights`.
    max_broken: the largest fraction of the images that may be missing or unreadable.
    Raises CliplineError where more are, where a split would be empty or leak into another, where the tokenizer is not
    available, or where `out` cannot be written; `out` is then as it was before.
    """
    inputs, dropped = recipe.inputs, Dropped()
    read = read_captions(raw / "captions.csv")
    captions = filter_captions(read, dataset.captions, dropped)
    captioned = {caption.image for caption in captions}
    assigned = splits.assigned(dataset.split, read)
    official = isinstance(dataset.split, OfficialSplit)
    absent = absent_from(assigned, captioned, max_broken) if official else []
    images = Images(raw / "images", captioned, assigned)
    # Before the long work, since the tower's tokenizer may be on the hub, and that may be out of reach.
    tower = tokenizer.find(inputs, recipe.text)
    with _disk_errors(out), atomic_folder(out) as folder:
        preprocess = Preprocess(inputs.image_size, inputs.resize)
        images.pack(preprocess, folder / "images.npy", max_broken, dataset.split)
        captions = _of_packed_images(captions, images, dropped)
        train = [caption.text for caption in captions if images.split[caption.image] == "train"]
        built, source = tokenizer.build(inputs, tower, train)
        encoded = tokenizer.encode(built, [caption.text for caption in captions])
        _write(folder, images, captions, encoded)
        built.save(str(folder / "tokenizer.json"))
        # Pictures are for people; no later stage reads them.
        data = sorted(path.name for path in folder.iterdir() if path.suffix != ".png")
        contents = {
            "fingerprint": _fingerprint(images, captions, encoded.tokens),
            "images_fingerprint": _images_digest(images).hexdigest(),
            "split": dataset.split.model_dump(),
            "inputs": {name: getattr(inputs, name) for name in ("image_size", "resize", "max_length")},
            "splits": report.sizes(images, captions),
            "images": report.pictures(images, absent),
            "captions": {"read": len(read), "kept": len(captions), "dropped": dropped.report()},
            "tokenizer": report.tokens(built, source, encoded),
            "files": {name: checksums.file_hash(folder / name) for name in data},
        }
        checksums.write_with_checksum(folder / "report.json", contents)
    return contents


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turn an OSError while `out` is made into a CliplineError that says what to do."""
    try:
        yield
    except OSError as error:
        path = Path(error.filename or out)
        if not path.is_relative_to(out.parent):
            raise CliplineError(f"{path}: cannot be read: {why(error)}") from error
        raise CliplineError(f"{out}: cannot be written: {why(error)}") from error


def _of_packed_images(captions: Sequence[Caption], images: Images, dropped: Dropped) -> list[Caption]:
    """The captions of the packed images, in the order of their rows; the others are added to `dropped`."""
    row = {image.name: number for number, image in enumerate(images.rows)}
    for caption in captions:
        if caption.image not in row:
            dropped.add(images.why_without(caption.image), caption)
    kept = [caption for caption in captions if caption.image in row]
    kept = without_repeats(kept, images.split, dropped)
    return sorted(kept, key=lambda caption: row[caption.image])


def _write(folder: Path, images: Images, captions: Sequence[Caption], encoded: Encoded) -> None:
    table = {
        "row": pa.array(range(len(images.rows)), pa.int64()),
        "image": [image.name for image in images.rows],
        "split": [images.split[image.name] for image in images.rows],
        "width": pa.array([image.width for image in images.rows], pa.int32()),
        "height": pa.array([image.height for image in images.rows], pa.int32()),
    }
    pq.write_table(pa.table(table), folder / "images.parquet")
    split = np.array([images.split[caption.image] for caption in captions])
    table = {
        "image": [caption.image for caption in captions],
        "caption": [caption.text for caption in captions],
        "split": split,
        "length": encoded.lengths,
    }
    pq.write_table(pa.table(table), folder / "captions.parquet")
    np.save(folder / "tokens.npy", encoded.tokens)
    lengths = {name: encoded.full[split == name] for name in splits.NAMES}
    plots.caption_lengths(lengths, encoded.tokens.shape[1], folder / "caption_lengths.png")


def _fingerprint(images: Images, captions: Sequence[Caption], tokens: np.ndarray) -> str:
    """SHA-256 over names, splits, pixels, captions and tokens."""
    digest = _images_digest(images)
    for caption in captions:
        digest.update(f"{caption.image}\0{caption.text}\0".encode())
    digest.update(np.ascontiguousarray(tokens, dtype="<i4"))
    return digest.hexdigest()


def _images_digest(images: Images) -> hashlib._Hash:
    """SHA-256 over names, splits and the digests of the pixels."""
    digest = hashlib.sha256()
    for image in images.rows:
        digest.update(f"{image.name}\0{images.split[image.name]}\0".encode() + image.digest)
    return digest
