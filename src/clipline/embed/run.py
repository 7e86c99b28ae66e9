"""Embed a folder: the stages joined into one stream whose memory does not grow with the number of images."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clipline import cores
from clipline.embed import destination
from clipline.embed.decode import Decoded, decode
from clipline.embed.infer import infer
from clipline.embed.manifest import ERRORS
from clipline.embed.paths import to_text
from clipline.embed.scan import EXTENSIONS, Failure, Found, scan
from clipline.embed.write import Writer
from clipline.errors import TooManyErrorsError, UsageError
from clipline.parallel import map_ordered
from clipline.progress import Bar
from clipline.runtime import OnnxModel

SHOWN = 5


@dataclass(frozen=True)
class Summary:
    """What a run did. seconds: from the first read to the last write. failures: the first few."""

    out: Path
    images: int
    rows: int
    errors: int
    parts: int
    seconds: float
    running_on: str
    failures: list[Failure]

    def __str__(self) -> str:
        rate = self.images / max(self.seconds, 1e-9)
        return (
            f"{self.out}: {_number(self.rows, 'embedding')} in {_number(self.parts, 'part')}, "
            f"{_number(self.errors, 'error')}; {self.seconds:,.1f} s, {rate:,.0f} images/s on {self.running_on}"
        )

    def enforce(self, max_errors: int) -> None:
        """Raise TooManyErrorsError that lists the first failures where there are more than `max_errors`."""
        if self.errors <= max_errors:
            return
        lines = [f"  {each.path}: {each.stage}: {each.reason}" for each in self.failures]
        more = [f"  and {self.errors - len(lines):,} more"] if self.errors > len(lines) else []
        raise TooManyErrorsError(
            "\n".join(
                [
                    f"{self.errors:,} of {self.images:,} images failed; --max-errors allows {max_errors:,}. "
                    f"The others are embedded. All failures: {self.out / ERRORS}",
                    *lines,
                    *more,
                ]
            )
        )


def embed_folder(
    folder: Path,
    model: OnnxModel,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 32,
    dtype: Literal["float16", "float32"] = "float16",
    threads: int | None = None,
    part_rows: int = 20_000,
    overwrite: bool = False,
    stable: bool = False,
    root: str | None = None,
) -> Summary:
    """Embed every image below `folder` with `model` into the embeddings folder `out`.

    names: embed only these files, paths relative to `folder`. dtype: of the stored vectors. threads: that
    decode; None means every core that this process may use. part_rows: rows per parquet file. overwrite:
    replace embeddings that are in `out`. stable: leave out `mtime`, so that equal inputs give equal bytes.
    root: what the manifest shall name as the folder of the images, relative to `out`; None works it out.

    Images that fail are listed in errors.parquet and counted in the Summary, whose `enforce` raises. Raises
    UsageError before any work (no folder, no images, `out` not empty) and CliplineError where writing fails.
    """
    destination.check(out, overwrite)
    total = _count(folder, out, names)
    running_on = model.running_on
    begun = time.monotonic()
    failures: list[Failure] = []
    root_text = to_text(root or _relative(folder, out))
    model_text = to_text(_relative(model.bundle.folder, out))
    with (
        destination.destination(out) as target,
        Writer(target, model.dim, dtype, part_rows, stable) as writer,
        Bar("embedding", total, "images") as bar,
        closing(_results(_inputs(folder, out, names), model, threads or cores.available(), batch_size)) as results,
    ):
        for images, embeddings, failed in results:
            if images:
                writer.add(images, embeddings)
            for failure in failed:
                writer.fail(failure)
                failures += [failure] if len(failures) < SHOWN else []
            done = len(images) + len(failed)
            rate = (bar.done + done) / max(time.monotonic() - begun, 1e-9)
            bar.advance(done, note=f"{rate:,.0f} images/s, {writer.errors:,} errors")
        counts = writer.finish(model.model_id, model.variant, model.dim, root_text, model_text).counts
    seconds = time.monotonic() - begun
    return Summary(out, counts.images, counts.rows, counts.errors, counts.parts, seconds, running_on, failures)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _count(folder: Path, out: Path, names: Sequence[str] | None) -> int:
    """How many images there are to embed. Raises UsageError where there is no folder or nothing in it."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    total, problem = 0, ""
    for item in _inputs(folder, out, names):
        if isinstance(item, Found):
            total += 1
        else:
            problem = f" ({item.path}: {item.reason})"
    if not total:
        raise UsageError(f"{folder}: no images in it{problem}. Looked for {', '.join(sorted(EXTENSIONS))}")
    return total


def _inputs(folder: Path, out: Path, names: Sequence[str] | None) -> Iterator[Found | Failure]:
    if names is None:
        yield from scan(folder, skip=out)
    else:
        yield from sorted((Found(to_text(name), folder / name) for name in names), key=lambda found: found.path)


def _results(
    inputs: Iterator[Found | Failure], model: OnnxModel, threads: int, batch_size: int
) -> Iterator[tuple[list[Decoded], np.ndarray, list[Failure]]]:
    """Batches of (images, their embeddings, what failed among and before them), in the order of `inputs`."""

    def work(item: Found | Failure) -> Decoded | Failure:
        return item if isinstance(item, Failure) else decode(item, model.preprocess)

    # One batch in the model, one behind it: the decoders never wait for the model, nor run far ahead.
    with closing(map_ordered(work, inputs, threads=threads, ahead=2 * batch_size + threads)) as results:
        while block := list(itertools.islice(results, batch_size)):
            failed = [each for each in block if isinstance(each, Failure)]
            images = [each for each in block if isinstance(each, Decoded)]
            images, embeddings, unusable = infer(model, images)
            yield images, embeddings, failed + unusable


def _relative(folder: Path, start: Path) -> str:
    """`folder` as seen from `start`, so that both can be moved together; absolute across Windows drives."""
    try:
        return os.path.relpath(folder.resolve(), start.resolve())
    except ValueError:
        return str(folder.resolve())
