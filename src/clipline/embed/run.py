"""Embed images into a folder of parquet files, going on with what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipline.embed import destination
from clipline.embed.clock import StageTimer
from clipline.embed.decode import Decoded
from clipline.embed.item import Failure, Ledger, Source
from clipline.embed.ledger import FolderLedger
from clipline.embed.lister import listed
from clipline.embed.pipeline import Duplicate, Embedded, Engine, Pipeline, Result
from clipline.embed.summary import Summary
from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Dtype, Row
from clipline.embeddings.paths import to_text
from clipline.runtime.model import OnnxModel
from clipline.utils import cores
from clipline.utils.progress import Bar

SHOWN = 5


@dataclass(frozen=True)
class Options:
    """How to embed.

    batch_size: None means the usual one where the model runs. dtype: of the stored vectors. threads: that read and
    decode; None means every core that this process may use. part_rows: rows per parquet file, the most that a kill may
    cost. prune: drop the rows of images that are gone. overwrite: begin anew; what is there stays until the new one is
    whole. stable: leave out `mtime`, so that equal inputs give equal bytes. published: where `out` will be moved to
    afterwards. root: what the manifest shall name as the place of the images, seen from there; None works it out.
    engine: makes what runs in the place of the local pipeline, of the model, the ledger, the clock and the batch size.
    """

    batch_size: int | None = None
    dtype: Dtype = "float16"
    threads: int | None = None
    part_rows: int = 1000
    prune: bool = False
    overwrite: bool = False
    stable: bool = False
    published: Path | None = None
    root: str | None = None
    engine: Callable[[OnnxModel, Ledger, StageTimer, int | None], Engine] | None = None


def embed(source: Source, model: OnnxModel, out: Path, options: Options) -> Summary:
    """Embed every image of `source` with `model` into the embeddings folder `out`.

    An `out` with embeddings of the same source by the same model is brought up to date: unchanged files are passed
    over, changed ones replaced, and an interrupted run goes on. Images that fail are listed in errors.parquet and
    counted in the Summary, whose `enforce` raises.

    Raises UsageError before any work (no images, `out` holds something else) and CliplineError where another process
    is embedding into `out`, a part of it is damaged, or the disk refuses.
    """
    destination.check(out)
    identity = Identity(
        model_id=model.model_id,
        variant=model.variant,
        dim=model.dim,
        dtype=options.dtype,
        root=to_text(options.root or _seen_from(options.published or out, source.root)),
        model=to_text(_seen_from(options.published or out, str(model.bundle.folder))),
    )
    running_on = "" if options.engine else model.running_on
    bar = Bar("embedding", None, "images")
    with listed(source, bar.set_total) as items, destination.destination(out, options.overwrite) as folder:
        writer = Writer(folder, identity, options.part_rows)
        with writer, bar:
            run = _Run(model, writer, bar, options)
            with closing(run.pipeline.run(items)) as blocks:
                for block in blocks:
                    run.take(block)
            return run.finish(options.published or out, running_on or run.pipeline.running_on)


def _seen_from(start: Path, place: str) -> str:
    """`place` as seen from the folder `start`, so that both can be moved together; a URL, or another drive, as is."""
    if "://" in place:
        return place
    try:
        return os.path.relpath(Path(place).resolve(), start.resolve())
    except ValueError:
        return str(Path(place).resolve())


class _Run:
    """One run: takes blocks of results, keeps the books, and sums up."""

    def __init__(self, model: OnnxModel, writer: Writer, bar: Bar, options: Options) -> None:
        threads = options.threads or cores.available()
        self.writer, self.bar, self.options = writer, bar, options
        at_once = 1 if options.engine else model.calls_at_once
        self.clock = StageTimer({"read": threads, "decode": threads, "model": at_once})
        self.ledger = FolderLedger(writer.parts, bar.advance)
        if options.engine:
            self.pipeline = options.engine(model, self.ledger, self.clock, options.batch_size)
        else:
            batch_size = options.batch_size or model.usual_batch
            self.pipeline = Pipeline(model, self.ledger, self.clock, batch_size, threads)
        self.embedded = self.copies = self.touched = 0
        self.failures: list[Failure] = []
        self.unlisted: list[str] = []

    def take(self, block: list[Result]) -> None:
        """Write a block's rows."""
        with self.clock.stage("write"):
            for result in block:
                if isinstance(result, Embedded):
                    image = result.image
                    self._add(image, (image.width, image.height), result.vector)
                    self.embedded += 1
                elif isinstance(result, Duplicate):
                    self._add_duplicate(result)
                else:
                    self._fail(result)
        rate = (self.embedded + self.copies) / self.clock.elapsed
        self.bar.advance(len(block), note=f"{rate:,.0f} images/s, {self.writer.errors:,} errors")

    def _add(self, image: Decoded | Duplicate, size: tuple[int, int], vector: np.ndarray) -> None:
        mtime = None if self.options.stable or not image.stat.mtime_ns else image.stat.mtime_ns // 1000
        row = Row(image.path, image.stat.bytes, mtime, image.sha256, *size)
        self.ledger.added(row, self.writer.add(row, vector))

    def _add_duplicate(self, duplicate: Duplicate) -> None:
        original = self.ledger.original(duplicate.sha256)
        if isinstance(original, Failure):
            self._fail(replace(original, path=duplicate.path))
            return
        self._add(duplicate, original.size, self.writer.parts.vector(original.place))
        if self.ledger.sha256(duplicate.path) == duplicate.sha256:
            self.touched += 1
        else:
            self.copies += 1

    def _fail(self, failure: Failure) -> None:
        self.writer.fail(failure)
        self.failures += [failure] if len(self.failures) < SHOWN else []
        if failure.stage == "scan":
            self.unlisted.append(failure.path)
        self.ledger.failed(failure)

    def finish(self, out: Path, running_on: str) -> Summary:
        """Drop what is out of date, write the rest, and sum up."""
        with self.clock.stage("write"):
            gone = self.ledger.gone(self.unlisted)
            old = self.ledger.out_of_date
            counts = self.writer.finish(old + gone if self.options.prune else old).counts
        unchanged = self.ledger.skipped + self.touched
        return Summary(
            out=out,
            images=self.embedded + self.copies + unchanged + self.writer.errors,
            embedded=self.embedded,
            copies=self.copies,
            unchanged=unchanged,
            replaced=len(old) - self.touched,
            dropped=len(gone) if self.options.prune else 0,
            gone=0 if self.options.prune else len(gone),
            errors=self.writer.errors,
            rows=counts.rows,
            parts=counts.parts,
            clock=self.clock,
            running_on=running_on,
            failures=self.failures,
        )
