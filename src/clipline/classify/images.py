"""What is to be classified, as vectors: images, embedded now, or an embeddings folder, whose images stay unread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from clipline.embed.clock import StageTimer
from clipline.embed.item import Failure, FileItem, NullLedger, Source
from clipline.embed.pipeline import Embedded, Pipeline
from clipline.embed.sources import open_source
from clipline.embed.sources.patterns import is_image
from clipline.embeddings.manifest import MANIFEST, PARTS
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from clipline.search.index import Index
from clipline.search.searcher import image_file, image_root, open_model
from clipline.utils import cores

USUAL_MODEL = Path("models/onnx")
ROWS = 4096  # of an embeddings folder at once: 16 MB of float32 at 1,024 components


@dataclass(frozen=True)
class Block:
    """Some images. paths: as embeddings would name them. vectors: [n, dim], L2-normalised. failures: beside them."""

    paths: list[str]
    vectors: np.ndarray
    failures: list[Failure]


class Vectors(Protocol):
    """Images in a fixed order. total: how many. model: what made, or makes, their vectors. notes: for who asked."""

    model: OnnxModel
    total: int
    notes: list[str]

    def blocks(self) -> Iterator[Block]:
        """All of them, some at a time."""

    def file(self, path: str) -> Path | str:
        """What to open from the current folder, or a URL, for a path of a block."""


class Images:
    """The images of a source, read and embedded with `model` as they are asked for.

    threads: that read and decode; None means every core that this process may use. Raises UsageError where there is
    no image.
    """

    def __init__(self, source: Source, model: OnnxModel, threads: int | None = None) -> None:
        self.model, self._source, self.notes = model, source, []
        self._threads = threads or cores.available()
        self.total = len(source) if isinstance(source, Sized) else sum(1 for _ in source)
        if not self.total:
            raise UsageError(f"{source.root}: no images in it")

    def blocks(self) -> Iterator[Block]:
        """All of them, a batch at a time."""
        at_once = self.model.calls_at_once
        clock = StageTimer({"read": self._threads, "decode": self._threads, "model": at_once})
        # A vector's last bits depend on the batch size, so that of `clipline embed`, but for a handful.
        batch = min(self.model.usual_batch, self.total)
        pipeline = Pipeline(self.model, NullLedger(), clock, batch, self._threads)
        with closing(pipeline.run(self._source)) as blocks:
            for block in blocks:
                good = [each for each in block if isinstance(each, Embedded)]
                rows = [each.vector for each in good]
                vectors = np.stack(rows) if rows else np.empty((0, self.model.dim), np.float32)
                yield Block([each.image.path for each in good], vectors, [x for x in block if isinstance(x, Failure)])

    def file(self, path: str) -> Path | str:
        """See `Vectors`."""
        root = self._source.root
        return image_file(root if "://" in root else Path(root), path)


class Stored:
    """The vectors of an embeddings folder. root: where its images are now, None for where they were."""

    def __init__(self, index: Index, model: OnnxModel, root: Path | None = None) -> None:
        self.model, self._index, self._place = model, index, image_root(index, root)
        self.total, self.notes = len(index), list(index.notes)

    def blocks(self) -> Iterator[Block]:
        """All of them, ROWS at a time."""
        for start in range(0, self.total, ROWS):
            rows = range(start, min(start + ROWS, self.total))
            yield Block(self._index.paths(rows), self._index.vectors[start : rows.stop], [])

    def file(self, path: str) -> Path | str:
        """See `Vectors`."""
        return image_file(self._place, path)


def open_vectors(
    what: Sequence[str],
    *,
    model: Path | None = None,
    root: Path | None = None,
    provider: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
) -> Vectors:
    """What a person names: an embeddings folder, image files, or anything that `clipline embed` takes.

    model: its folder; None takes the one that the embeddings name, for images USUAL_MODEL. Raises UsageError where
    there is no such thing, or the embeddings are another model's.
    """
    if len(what) == 1 and is_embeddings(Path(what[0])):
        index = Index(Path(what[0]))
        return Stored(index, open_model(index, model, provider, threads), root)
    if len(what) == 1 and (Path(what[0]).is_dir() or not is_image(what[0])):
        source = open_source(what[0], root=root)
    elif root:
        raise UsageError("--root is for embeddings, lists and tables of paths. Fix: leave it out")
    else:
        source = Named(what)
    return Images(source, open_for_images(model, provider, threads), threads)


def open_for_images(model: Path | None, provider: Literal["auto", "cpu", "cuda"], threads: int | None) -> OnnxModel:
    """The model `model`, or that of the current project. Raises UsageError where there is none."""
    if model is None and not USUAL_MODEL.is_dir():
        raise UsageError(f"{USUAL_MODEL}: no such folder here. Fix: name the model's with --model")
    return OnnxModel(model or USUAL_MODEL, provider=provider, threads=threads, bulk=True)


def is_embeddings(folder: Path) -> bool:
    """Whether `folder` is what `clipline embed` wrote; one with images may have a manifest.json of its own."""
    return (folder / MANIFEST).is_file() and any(folder.glob(PARTS))


class Named:
    """Image files named one by one. Raises UsageError where one is not there."""

    root = "."

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            if not Path(name).is_file():
                kind = "a folder; name one folder, or files" if Path(name).is_dir() else "no such file"
                raise UsageError(f"{name}: {kind}")
        self._names = list(names)

    def __iter__(self) -> Iterator[FileItem]:
        for name in self._names:
            yield FileItem(to_text(name), Path(name))
