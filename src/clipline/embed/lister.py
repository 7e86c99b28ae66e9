"""List a source once, in a thread of its own that runs ahead of decoding, so that the total is known early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain

from clipline.embed.item import Failure, Item, Source
from clipline.embed.passed_over import passed_over
from clipline.embed.prefetch import Prefetcher
from clipline.errors import UsageError, shorten

# The most items that are listed ahead of decoding. They take about 160 MB of memory (files of a folder). Of a
# larger source the total is known once all but these are embedded.
MAX_AHEAD = 1_000_000


@contextmanager
def listed(source: Source, on_total: Callable[[int], None]) -> Iterator[Iterable[Item | Failure]]:
    """The items of `source` in order, while a thread lists those to come.

    on_total: called from that thread with the number of items, once all are listed. Items that hold their images are
    not listed ahead. Raises UsageError where the source has no image; what the listing itself raises ends the iteration
    at once.
    """
    if getattr(source, "holds_images", False):
        yield _from_first_image(source, iter(source))
        return
    with closing(Prefetcher(_counted(source, on_total), MAX_AHEAD)) as items:
        yield _from_first_image(source, items)


def _from_first_image(source: Source, items: Iterator[Item | Failure]) -> Iterable[Item | Failure]:
    """All items. Raises UsageError where none of them is an image."""
    first: list[Item | Failure] = []
    for item in items:
        first.append(item)
        if not isinstance(item, Failure):
            return chain(first, items)
    problem = f" ({shorten(first[-1].path)}: {first[-1].reason})" if first else ""
    left_out = passed_over(source)
    raise UsageError(f"{source.root}: no images in it{problem}{f'; {left_out}' if left_out else ''}")


def _counted(source: Source, on_total: Callable[[int], None]) -> Iterator[Item | Failure]:
    total = 0
    for item in source:
        total += 1
        yield item
    on_total(total)
