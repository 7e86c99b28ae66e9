"""The images to classify as vectors: embedded now, or those of an embeddings folder, whose images are not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from clipline.embed.item import Failure, FileItem, NullLedger, Source
from clipline.embed.passed_over import passed_over
from clipline.embed.pipeline import Embedded, Pipeline
from clipline.embed.sources import SUFFIXES, open_source
from clipline.embed.stage_timer import StageTimer
from clipline.embeddings.manifest import MANIFEST, part_names
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from clipline.search.index import Index
from clipline.search.searcher import Provider, image_file, image_root, open_model
from clipline.utils import cores
from clipline.utils.image_names import is_image

DEFAULT_MODEL = Path("models/onnx")
ROWS = 4096  # of an embeddings folder in a block: 16 MB of float32 at 1,024 components


@dataclass(frozen=True)
class Block:
    """Some images. paths: as embeddings name them. vectors: [n, dim], L2-normalised. failures: of other images."""

    paths: list[str]
    vectors: np.ndarray
    failures: list[Failure]


class Vectors(Protocol):
    """Images in a fixed order. total: how many. model: that makes their vectors. notes: for the user, a line each."""

    model: OnnxModel
    total: int
    notes: list[str]

    def blocks(self) -> Iterator[Block]:
        """All images, some at a time."""

    def file(self, path: str) -> Path | str:
        """The image of a path of a block: a file, relative to the current folder, or a URL."""


class Images:
    """The images of a source, read and embedded with `model` block by block.

    threads: that read and decode; None means every core that this process may use. Raises UsageError where there is
    no image.
    """

    def __init__(self, source: Source, model: OnnxModel, threads: int | None = None) -> None:
        self.model, self._source = model, source
        self._threads = threads or cores.available()
        self.total = len(source) if isinstance(source, Sized) else sum(1 for _ in source)
        self.notes = [str(left_out)] if (left_out := passed_over(source)) else []
        if not self.total:
            raise UsageError("; ".join([f"{source.root}: no images in it", *self.notes]))

    def blocks(self) -> Iterator[Block]:
        """All images, a batch at a time."""
        calls = self.model.calls_at_once
        clock = StageTimer({"read": self._threads, "decode": self._threads, "model": calls})
        # The batch size of `clipline embed`, as a vector's last bits depend on it; a smaller one for a few images.
        batch = min(self.model.usual_batch, self.total)
        pipeline = Pipeline(self.model, NullLedger(), clock, batch, self._threads)
        with closing(pipeline.run(self._source)) as blocks:
            for block in blocks:
                embedded = [result for result in block if isinstance(result, Embedded)]
                vectors = np.array([result.vector for result in embedded], np.float32)
                failures = [result for result in block if isinstance(result, Failure)]
                yield Block([result.image.path for result in embedded], vectors.reshape(-1, self.model.dim), failures)

    def file(self, path: str) -> Path | str:
        """See `Vectors`."""
        root = self._source.root
        return image_file(root if "://" in root else Path(root), path)


class Stored:
    """The vectors of an embeddings folder. root: where its images are now, None for where they were."""

    def __init__(self, index: Index, model: OnnxModel, root: Path | None = None) -> None:
        self.model, self._index, self._root = model, index, image_root(index, root)
        self.total, self.notes = len(index), list(index.notes)

    def blocks(self) -> Iterator[Block]:
        """All images, ROWS at a time."""
        for start in range(0, self.total, ROWS):
            rows = range(start, min(start + ROWS, self.total))
            yield Block(self._index.paths(rows), self._index.vectors[start : rows.stop], [])

    def file(self, path: str) -> Path | str:
        """See `Vectors`."""
        return image_file(self._root, path)


def open_vectors(
    names: Sequence[str],
    *,
    model: Path | None = None,
    root: Path | None = None,
    provider: Provider = "auto",
    threads: int | None = None,
) -> Vectors:
    """The images that the user names: an embeddings folder, image files, or anything that `clipline embed` takes.

    model: its folder; None takes the one that the embeddings name, for images DEFAULT_MODEL. Raises UsageError where
    one of them does not exist, or another model made the embeddings.
    """
    if len(names) == 1 and is_embeddings(Path(names[0])):
        index = Index(Path(names[0]))
        return Stored(index, open_model(index, model, provider, threads), root)
    first = Path(names[0])
    is_one_image = is_image(first.name) or (first.is_file() and not first.name.lower().endswith(SUFFIXES))
    if len(names) == 1 and (first.is_dir() or not is_one_image):
        source = open_source(names[0], root=root)
    elif root:
        raise UsageError("--root is for embeddings, lists and tables of paths. Fix: leave it out")
    else:
        source = NamedFiles(names)
    return Images(source, open_for_images(model, provider, threads), threads)


def open_for_images(model: Path | None, provider: Provider, threads: int | None) -> OnnxModel:
    """The model in `model`, or in DEFAULT_MODEL where it is None. Raises UsageError where there is none."""
    if model is None and not DEFAULT_MODEL.is_dir():
        raise UsageError(f"{DEFAULT_MODEL}: no such folder here. Fix: name the model's with --model")
    return OnnxModel(model or DEFAULT_MODEL, provider=provider, threads=threads, bulk=True)


def is_embeddings(folder: Path) -> bool:
    """Whether `clipline embed` wrote `folder`; a folder of images may hold another manifest.json."""
    return (folder / MANIFEST).is_file() and bool(part_names(folder))


class NamedFiles:
    """Image files named one by one. Raises UsageError where one does not exist."""

    root = "."

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            if not Path(name).is_file():
                kind = "a folder; name one folder, or files" if Path(name).is_dir() else "no such file"
                raise UsageError(f"{name}: {kind}")
        self._names = list(names)

    def __iter__(self) -> Iterator[FileItem]:
        for name in self._names:
            yield FileItem(to_text(name), name)
