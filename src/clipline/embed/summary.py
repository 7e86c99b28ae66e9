"""The result of a run: counts, and a summary in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipline.embed.item import Failure
from clipline.embed.passed_over import PassedOver
from clipline.embed.stage_timer import StageTimer
from clipline.embeddings.manifest import ERRORS
from clipline.errors import TooManyErrorsError, escape, shorten


@dataclass(frozen=True)
class Summary:
    """Counts of a run. images = embedded + copies + unchanged + errors.

    copies: images with the bytes of another one, whose vector they share. unchanged: images whose bytes have a row
    already. replaced: rows of files that changed. dropped: rows of files that are gone; gone: such rows that were kept.
    rows, parts: what `out` holds now. passed_over: files and folders left out by their names. failures: the first few.
    """

    out: Path
    images: int
    embedded: int
    copies: int
    unchanged: int
    replaced: int
    dropped: int
    gone: int
    errors: int
    rows: int
    parts: int
    clock: StageTimer
    running_on: str
    passed_over: PassedOver
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        new = self.embedded + self.copies
        parts = [
            f"{count:,} {what}"
            for count, what in (
                (new, "new"),
                (self.unchanged, "unchanged"),
                (self.replaced, "replaced"),
                (self.dropped, "dropped as their images are gone"),
                (self.gone, "kept though their images are gone: --prune drops them"),
                (self.copies, "of them copies of other images"),
            )
            if count
        ]
        seconds = self.clock.elapsed
        return (
            f"{escape(self.out)}: {_number(self.rows, 'embedding')} in {_number(self.parts, 'part')}, "
            f"{_number(self.errors, 'error')} ({', '.join(parts) or 'nothing new'}); {seconds:,.1f} s, "
            f"{new / max(seconds, 1e-9):,.0f} images/s on {self.running_on}\n{self.clock}"
            + (f"\n{self.passed_over}" if self.passed_over else "")
        )

    def enforce(self, max_errors: int) -> None:
        """Raise TooManyErrorsError that lists the first failures where there are more than `max_errors`."""
        if self.errors <= max_errors:
            return
        lines = [f"  {shorten(failure.path)}: {failure.stage}: {failure.reason}" for failure in self.failures]
        more = [f"  and {self.errors - len(lines):,} more"] if self.errors > len(lines) else []
        message = (
            f"{self.errors:,} of {self.images:,} images failed; --max-errors allows {max_errors:,}. "
            f"The others are embedded. All failures: {self.out / ERRORS}"
        )
        raise TooManyErrorsError(message, *lines, *more)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
