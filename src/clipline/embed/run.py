"""Embed images into a folder of parquet files, or bring such a folder up to date."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipline.embed import destination
from clipline.embed.decode import Decoded
from clipline.embed.item import Failure, Source
from clipline.embed.ledger import FolderLedger
from clipline.embed.lister import listed
from clipline.embed.passed_over import PassedOver, passed_over
from clipline.embed.pipeline import Duplicate, Embedded, Engine, Pipeline, Result
from clipline.embed.stage_timer import StageTimer
from clipline.embed.summary import Summary
from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Dtype, Row
from clipline.embeddings.paths import to_text
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from clipline.utils import cores
from clipline.utils.progress import Bar

MAX_SHOWN = 5  # failures in the Summary


@dataclass(frozen=True)
class Options:
    """How to embed.

    batch_size: images in one call of the model; None means the usual number for its provider. dtype: of the stored
    vectors. threads: how many read, and as many again that decode; None means one for each core that this process may
    use. part_rows: rows in one parquet file, which is also the most that a kill can lose. prune: drop the rows of
    images that are gone. overwrite: embed all images again; the old embeddings stay until the new ones are complete.
    stable: leave out `mtime`, so that equal inputs give equal bytes. published: where `out` will be moved afterwards.
    root: the folder of the images as the manifest names it, relative to `published` or `out`; None computes it.
    engine: factory (model, ledger, clock, batch_size) -> Engine; None means the local Pipeline.
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
    engine: Callable[[OnnxModel, FolderLedger, StageTimer, int | None], Engine] | None = None


def embed(source: Source, model: OnnxModel, out: Path, options: Options) -> Summary:
    """Embed every image of `source` with `model` into the embeddings folder `out`.

    An `out` with embeddings of the same source by the same model is brought up to date: unchanged files are skipped,
    changed ones replaced, and an interrupted run is continued. Images that fail are listed in errors.parquet and
    counted in the Summary, whose `enforce` raises.

    Raises UsageError before anything is written (no images, or `out` holds something else), and CliplineError where
    another process is embedding into `out`, the source cannot be listed to its end, a part is damaged, or the disk
    refuses.
    """
    destination.check(out)
    if options.engine and getattr(source, "holds_images", False):
        raise UsageError(f"{source.root}: a table that holds images is read on this machine. Fix: --engine local")
    final = options.published or out
    identity = Identity(
        model_id=model.model_id,
        variant=model.variant,
        dim=model.dim,
        dtype=options.dtype,
        root=to_text(options.root or _relative(source.root, final)),
        model=to_text(_relative(str(model.bundle.folder), final)),
    )
    running_on = "" if options.engine else model.running_on  # loads the graph, whose errors must come first
    bar = Bar("embedding", None, "images")
    with listed(source, bar.set_total) as items, destination.destination(out, options.overwrite) as folder:
        writer = Writer(folder, identity, options.part_rows)
        with writer, bar:
            run = _Run(model, writer, bar, options)
            with closing(run.engine.run(items)) as blocks:
                for block in blocks:
                    run.write(block)
            return run.finish(final, running_on or run.engine.running_on, passed_over(source))


def _relative(path: str, start: Path) -> str:
    """`path` relative to the folder `start`, so that both can be moved together; a URL, or another drive, as it is."""
    if "://" in path:
        return path
    try:
        return os.path.relpath(Path(path).resolve(), start.resolve())
    except ValueError:
        return str(Path(path).resolve())


class _Run:
    """One run: writes results, updates the ledger, builds the Summary."""

    def __init__(self, model: OnnxModel, writer: Writer, bar: Bar, options: Options) -> None:
        threads = options.threads or cores.available()
        self.writer, self.bar, self.options = writer, bar, options
        at_once = 1 if options.engine else model.calls_at_once
        self.clock = StageTimer({"read": threads, "decode": threads, "model": at_once})
        self.ledger = FolderLedger(writer.parts, bar.advance)
        if options.engine:
            self.engine = options.engine(model, self.ledger, self.clock, options.batch_size)
        else:
            batch_size = options.batch_size or model.usual_batch
            self.engine = Pipeline(model, self.ledger, self.clock, batch_size, threads)
        self.embedded = self.copies = self.touched = 0
        self.failures: list[Failure] = []
        self.unlisted: list[str] = []

    def write(self, block: list[Result]) -> None:
        """Write the rows of a block of results."""
        with self.clock.stage("write"):
            for result in block:
                if isinstance(result, Embedded):
                    self._add(result.image, (result.image.width, result.image.height), result.vector)
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
        self._add(duplicate, original.size, self.writer.parts.vector(original.row_id))
        if self.ledger.sha256(duplicate.path) == duplicate.sha256:
            self.touched += 1
        else:
            self.copies += 1

    def _fail(self, failure: Failure) -> None:
        self.writer.fail(failure)
        if len(self.failures) < MAX_SHOWN:
            self.failures.append(failure)
        if failure.stage == "scan":
            self.unlisted.append(failure.path)
        self.ledger.failed(failure)

    def finish(self, out: Path, running_on: str, left_out: PassedOver) -> Summary:
        """Drop rows that are out of date, and with `prune` those of images that are gone; complete the folder."""
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
            passed_over=left_out,
            failures=self.failures,
        )
