"""What a source left out because of its name, so that a summary can tell of it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from clipline.errors import shorten

SHOWN = 5  # suffixes, and names of folders
MAX_SUFFIXES = 100  # of logs such as `x.2024-12-31` there are endless ones


@dataclass
class PassedOver:
    """suffixes: how many files were no images by their suffix. folders: the paths of those that machines fill."""

    suffixes: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)

    def add_file(self, path: str) -> None:
        """Count a file by its suffix."""
        suffix = os.path.splitext(path)[1]  # noqa: PTH122 - millions of names, and Path is slow
        known = suffix in self.suffixes or len(self.suffixes) < MAX_SUFFIXES
        self.suffixes[suffix if known else "with other suffixes"] += 1

    def clear(self) -> None:
        """Forget all, before files are listed again."""
        self.suffixes.clear()
        self.folders.clear()

    def __bool__(self) -> bool:
        return bool(self.suffixes or self.folders)

    def __str__(self) -> str:
        """One line, with the options that would take what was left out."""
        groups = []
        if self.suffixes:
            (suffix, _), *_ = self.suffixes.most_common(1)
            named = {shorten(suffix) or "without suffix": count for suffix, count in self.suffixes.most_common()}
            groups.append(f"{_counts(named)} (--include '*{shorten(suffix)}' takes such files)")
        if self.folders:
            names = Counter(shorten(path.rpartition("/")[2]) for path in self.folders)
            groups.append(f"folders {_counts(names)} (--keep-machine-folders takes them)")
        return f"passed over: {'; '.join(groups)}"


def _counts(counts: dict[str, int]) -> str:
    first = Counter(counts).most_common(SHOWN)
    others = sum(counts.values()) - sum(count for _, count in first)
    return ", ".join([f"{count:,} {name}" for name, count in first] + [f"{others:,} others"] * bool(others))


def passed_over(source: object) -> PassedOver:
    """What `source` left out: nothing, where it does not choose by names."""
    return getattr(source, "passed_over", PassedOver())
