"""Read, clean and filter captions, and count each one that is dropped.

This decides what a model learns from, so nothing disappears silently: every caption that is read is either kept, or
counted under one reason, with examples.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipline.config.dataset import CaptionRules
from clipline.data.records import Record, decode, records
from clipline.errors import CliplineError, first_few, shorten

EXAMPLES = 5
# Only closed entities: `AT&T` and `cats &notes` are text, `AT&amp;T` is not.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Invisible characters that have a meaning: joiners (Persian, Indic scripts, emoji) and the tags of emoji flags.
_MEANINGFUL_FORMAT = {"\u200c", "\u200d"} | {chr(code) for code in range(0xE0020, 0xE0080)}


@dataclass(frozen=True, slots=True)
class Caption:
    """One row of captions.csv.

    image: file name. split: what the table's split column says, None without that column. line: where the row starts,
    from 1.
    """

    image: str
    text: str
    split: str | None
    line: int


@dataclass
class Dropped:
    """The captions that were left out: how many for each reason, and the first few of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, reason: str, caption: Caption) -> None:
        """Count `caption` as left out because of `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append({"line": caption.line, "image": caption.image, "caption": caption.text[:200]})

    def report(self) -> dict[str, Any]:
        """{reason: {"count", "examples"}}, the most frequent first."""
        order = sorted(self.counts, key=lambda reason: (-self.counts[reason], reason))
        return {reason: {"count": self.counts[reason], "examples": self.examples[reason]} for reason in order}


def read_captions(path: Path) -> list[Caption]:
    """Read captions.csv (UTF-8; columns image, caption and perhaps split), without cleaning.

    Raises CliplineError, with the line, where the file is missing, is not UTF-8 or not CSV, or lacks a column.
    """
    try:
        text = decode(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: run the download stage (dvc repro download)") from None
    except OSError as error:
        raise CliplineError(f"{path}: cannot be read: {error.strerror}") from None
    rows = records(text, str(path), keep_blank=True)
    first = next(rows, None)
    header = first.fields if first else []
    for name in ("image", "caption"):
        if name not in header:
            names = first_few(header, 20) or "nothing"
            raise CliplineError(f"{path}: line 1: no column `{name}`; needed: image, caption; found: {names}")
    columns = {name: header.index(name) for name in ("image", "caption", "split") if name in header}
    captions = [_caption(row, columns, len(header), f"{path}: line {row.line}") for row in rows]
    if not captions:
        raise CliplineError(f"{path}: no captions below the header")
    return captions


def _caption(row: Record, columns: dict[str, int], width: int, where: str) -> Caption:
    fields = row.fields
    if len(fields) != width:
        found = shorten(row.text.strip())
        raise CliplineError(f"{where}: {len(fields)} columns where the header has {width}: '{found}'")
    if not fields[columns["image"]]:
        raise CliplineError(f"{where}: the image name is empty")
    split = fields[columns["split"]] if "split" in columns else None
    return Caption(fields[columns["image"]], fields[columns["caption"]], split, row.line)


def clean(text: str, lowercase: bool = False) -> str:
    """Normalise to NFC, decode HTML entities, drop control and invisible characters, and join by single spaces.

    lowercase: also turn it into lower case.
    """
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = " ".join("".join(map(_visible, text)).split())
    # NFC comes last: a letter and its accent may have stood apart, with an invisible character between them.
    return unicodedata.normalize("NFC", text.lower() if lowercase else text)


def _visible(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " "
    category = unicodedata.category(character)
    if category == "Cf":
        return character if character in _MEANINGFUL_FORMAT else ""
    return " " if category in {"Cc", "Cs", "Zl", "Zp"} else character


def words(text: str) -> int:
    """Count the words: runs between spaces that contain a letter or a digit (a lone full stop is none)."""
    return sum(any(character.isalnum() for character in word) for word in text.split())


def filter_captions(captions: Iterable[Caption], rules: CaptionRules, dropped: Dropped) -> list[Caption]:
    """Clean the captions and keep those that pass the rules; the others are added to `dropped`."""
    kept: list[Caption] = []
    for caption in captions:
        text = clean(caption.text, rules.lowercase)
        reason = _broken_rule(words(text), rules)
        if reason is None:
            kept.append(replace(caption, text=text))
        else:
            dropped.add(reason, caption)
    return kept


def without_repeats(captions: Iterable[Caption], split: Mapping[str, str], dropped: Dropped) -> list[Caption]:
    """Drop captions that repeat another one of the same training image (letter case aside).

    split: image -> split. Validation and test keep their repeats, which do no harm there: published protocols count
    each of them as a query (Flickr8k's 5,000).
    """
    kept: list[Caption] = []
    seen: set[tuple[str, str]] = set()
    for caption in captions:
        key = (caption.image, caption.text.casefold())
        if split[caption.image] == "train" and key in seen:
            dropped.add("repeats another caption of its training image", caption)
            continue
        seen.add(key)
        kept.append(caption)
    return kept


def _broken_rule(count: int, rules: CaptionRules) -> str | None:
    if count == 0:
        return "no words"
    if count < rules.min_words:
        return f"fewer than {rules.min_words} words"
    if count > rules.max_words:
        return f"more than {rules.max_words} words"
    return None
