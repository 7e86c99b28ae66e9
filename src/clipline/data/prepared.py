"""Read what the preprocess stage wrote: data/prepared."""

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
    """One split: n images, c captions of at most L tokens.

    images: uint8 [N, S, S, 3], memory-mapped, of ALL splits; image_rows: int64 [n], the split's rows of it.
    tokens: int32 [c, L], padded; lengths: int32 [c], real tokens of each.
    caption_image: int64 [c], each caption's image, an index 0..n-1 into image_rows and image_names.
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
        """`function` of all captions, rows int64 [b] -> [b, D] -> [c, D] in their own order.

        It gets them in order of length, so that a batch holds little padding.
        """
        order = np.argsort(self.lengths, kind="stable")
        found = np.concatenate([function(order[i : i + batch_size]) for i in range(0, len(order), batch_size)])
        found[order] = found.copy()
        return found


class Prepared:
    """data/prepared, opened. Raises CliplineError where a file is missing, or not the one that was written.

    Every file is compared with its hash in report.json: about a second for 1.2 GB of pixels.
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
        """Hash of names, splits, captions, tokens and pixels: equal where the data are the same."""
        return self.report["fingerprint"]

    @property
    def images_fingerprint(self) -> str:
        """Hash of the images' names, splits and pixels alone: captions and tokenizers do not change it."""
        return self.report["images_fingerprint"]

    @property
    def image_size(self) -> int:
        """Side S of the images, in pixels."""
        return int(self._pixels.shape[1])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Pads to the longest of a batch and truncates by itself."""
        path = self.folder / "tokenizer.json"
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise CliplineError(f"{path}: damaged: {error}. {_FIX}") from None

    @property
    def vocab_size(self) -> int:
        """How many token ids there are: the rows that a text tower's embedding needs."""
        # Not the number of tokens: ids may have gaps.
        return max(self.tokenizer.get_vocab().values()) + 1

    def split(self, name: str) -> Split:
        """One of train, val and test; its images in the order of their rows, captions by image."""
        splits = np.asarray(self._images["split"].to_pylist(), dtype=object)
        rows = np.flatnonzero(splits == name)
        if not rows.size:
            raise CliplineError(f"{self.folder}: no split {name!r}; it has: {', '.join(sorted(set(splits)))}")
        names = self._images["image"].take(pa.array(rows)).to_pylist()
        index = {image: number for number, image in enumerate(names)}
        own = np.flatnonzero(np.asarray(self._captions["split"].to_pylist(), dtype=object) == name)
        captions = self._captions.take(pa.array(own))
        return Split(
            name=name,
            images=self._pixels,
            image_rows=rows.astype(np.int64),
            image_names=names,
            tokens=np.asarray(self._tokens[own], dtype=np.int32),
            lengths=captions["length"].to_numpy().astype(np.int32),
            captions=captions["caption"].to_pylist(),
            caption_image=np.array([index[image] for image in captions["image"].to_pylist()], dtype=np.int64),
        )
