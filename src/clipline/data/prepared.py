"""Read data/prepared, which the preprocess stage writes: captions, tokens, pixels and tokenizer, by split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from clipline.errors import CliplineError, out_of_memory
from clipline.utils import checksums

_FILES = ("report.json", "images.parquet", "captions.parquet", "images.npy", "tokens.npy", "tokenizer.json")
_FIX = "Fix: run the preprocess stage again (dvc repro preprocess)"


@dataclass(frozen=True)
class Split:
    """One split: n images, and c captions of at most L tokens.

    images: uint8 [N, S, S, 3], memory-mapped, of ALL splits. image_rows: int64 [n], this split's rows of it.
    tokens: int32 [c, L], padded. lengths: int32 [c], how many tokens are not padding.
    caption_image: int64 [c], the image of each caption, as an index 0..n-1 into image_rows and image_names.
    """

    name: str
    images: np.ndarray
    image_rows: np.ndarray
    image_names: list[str]
    tokens: np.ndarray
    lengths: np.ndarray
    captions: list[str]
    caption_image: np.ndarray

    def map_captions(self, function: Callable[[np.ndarray], np.ndarray], batch_size: int) -> np.ndarray:
        """Apply `function` (caption rows, int64 [b] -> vectors [b, D]) to all captions in batches; returns [c, D].

        Batches are taken in order of length, so that they hold little padding; the result is in the captions' order.
        """
        order = np.argsort(self.lengths, kind="stable")
        vectors = np.concatenate([function(order[i : i + batch_size]) for i in range(0, len(order), batch_size)])
        vectors[order] = vectors.copy()
        return vectors


class Prepared:
    """data/prepared, opened.

    Every file is compared with its hash in report.json, which takes about a second for 1.2 GB of pixels. Raises
    CliplineError where a file is missing, or was changed since it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in _FILES:
            if not (folder / name).is_file():
                raise CliplineError(f"{folder / name}: no such file. {_FIX}")
        try:
            self.report: dict[str, Any] = checksums.read_verified(folder / "report.json")
            checksums.check_files(folder, self.report["files"])
            self._images = pq.read_table(folder / "images.parquet")
            self._captions = pq.read_table(folder / "captions.parquet")
            self._pixels = np.load(folder / "images.npy", mmap_mode="r")
            self._tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        except (ValueError, AttributeError, KeyError, EOFError, OSError, pa.ArrowException) as error:
            if out_of_memory(error):  # nothing is wrong with the files
                raise
            raise CliplineError(f"{folder}: damaged: {error}. {_FIX}") from None

    @property
    def fingerprint(self) -> str:
        """Hash of names, splits, captions, tokens and pixels: equal if the data are the same."""
        return self.report["fingerprint"]

    @property
    def images_fingerprint(self) -> str:
        """Hash of the images' names, splits and pixels only: it does not depend on captions and tokenizer."""
        return self.report["images_fingerprint"]

    @property
    def image_size(self) -> int:
        """Side S of the images, in pixels."""
        return int(self._pixels.shape[1])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which pads to the longest text of a batch and truncates by itself."""
        path = self.folder / "tokenizer.json"
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise CliplineError(f"{path}: damaged: {error}. {_FIX}") from None

    @property
    def vocab_size(self) -> int:
        """How many rows the embedding table of a text tower needs: the largest token id plus one."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def split(self, name: str) -> Split:
        """Return train, val or test: images in the order of their rows, captions by image."""
        splits = np.asarray(self._images["split"].to_pylist(), dtype=object)
        rows = np.flatnonzero(splits == name)
        if not rows.size:
            raise CliplineError(f"{self.folder}: no split {name!r}; it has: {', '.join(sorted(set(splits)))}")
        names = self._images["image"].take(pa.array(rows)).to_pylist()
        index = {image: number for number, image in enumerate(names)}
        caption_rows = np.flatnonzero(np.asarray(self._captions["split"].to_pylist(), dtype=object) == name)
        captions = self._captions.take(pa.array(caption_rows))
        return Split(
            name=name,
            images=self._pixels,
            image_rows=rows.astype(np.int64),
            image_names=names,
            tokens=np.asarray(self._tokens[caption_rows], dtype=np.int32),
            lengths=captions["length"].to_numpy().astype(np.int32),
            captions=captions["caption"].to_pylist(),
            caption_image=np.array([index[image] for image in captions["image"].to_pylist()], dtype=np.int64),
        )
