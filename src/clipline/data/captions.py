"""Read, clean and choose captions, and account for each that is dropped.

What a model learns from is decided here, so nothing disappears silently: every caption that is read is either
kept or counted under one reason, with examples.
"""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipline.config.dataset import CaptionRules
from clipline.errors import CliplineError

EXAMPLES = 5
# Only closed entities: `AT&T` and `cats &notes` are text, `AT&amp;T` is not.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Invisible characters that still mean something: joiners (Persian, Indic scripts, emoji) and emoji flag tags.
_MEANINGFUL_FORMAT = {"\u200c", "\u200d"} | {chr(code) for code in range(0xE0020, 0xE0080)}


@dataclass(frozen=True, slots=True)
class Caption:
    """One row of captions.csv. split: the table's own, if it has one. line: where the row starts, from 1."""

    image: str
    text: str
    split: str | None
    line: int


@dataclass
class Dropped:
    """Captions that were left out: how many for each reason, and the first few of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, reason: str, caption: Caption) -> None:
        """`caption` is left out because of `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append({"line": caption.line, "image": caption.image, "caption": caption.text[:200]})

    def report(self) -> dict[str, Any]:
        """{reason: {"count", "examples"}}, the most frequent first."""
        order = sorted(self.counts, key=lambda reason: (-self.counts[reason], reason))
        return {reason: {"count": self.counts[reason], "examples": self.examples[reason]} for reason in order}


def read_captions(path: Path) -> list[Caption]:
    """captions.csv (UTF-8; columns image, caption and perhaps split) -> its rows, uncleaned.

    Raises CliplineError with the line where the file is missing, is not UTF-8, lacks a column or is no CSV.
    """
    reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True)
    start = 1
    try:
        header = next(reader, [])
        columns = _columns(header, path)
        captions: list[Caption] = []
        start = reader.line_num + 1
        for row in reader:
            if row:
                captions.append(_caption(row, columns, len(header), f"{path}: line {start}", start))
            start = reader.line_num + 1
    except csv.Error as error:
        raise CliplineError(f"{path}: line {start}: {error} (an open quotation mark?)") from None
    if not captions:
        raise CliplineError(f"{path}: no captions below the header")
    return captions


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CliplineError(f"{path}: no such file. Fix: run the download stage (dvc repro download)") from None
    except OSError as error:
        raise CliplineError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 4].hex(" ")
        raise CliplineError(f"{path}: line {line}: not UTF-8 (bytes {found}). Fix: save it as UTF-8") from None


def _columns(header: list[str], path: Path) -> dict[str, int]:
    for name in ("image", "caption"):
        if name not in header:
            found = ", ".join(header) or "nothing"
            raise CliplineError(f"{path}: line 1: no column `{name}`; needed: image, caption; found: {found}")
    return {name: header.index(name) for name in ("image", "caption", "split") if name in header}


def _caption(row: list[str], columns: dict[str, int], width: int, where: str, line: int) -> Caption:
    if len(row) != width:
        raise CliplineError(f"{where}: {len(row)} columns where the header has {width}: {','.join(row)[:80]!r}")
    if not row[columns["image"]]:
        raise CliplineError(f"{where}: the image name is empty")
    split = row[columns["split"]] if "split" in columns else None
    return Caption(row[columns["image"]], row[columns["caption"]], split, line)


def clean(text: str, lowercase: bool = False) -> str:
    """NFC, no HTML entities, no control or invisible characters, single spaces; lower case if asked."""
    text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    text = " ".join("".join(map(_visible, text)).split())
    # Last: a letter and its accent may have stood apart, an invisible character between them.
    return unicodedata.normalize("NFC", text.lower() if lowercase else text)


def _visible(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " "
    kind = unicodedata.category(character)
    if kind == "Cf":
        return character if character in _MEANINGFUL_FORMAT else ""
    return " " if kind in {"Cc", "Cs", "Zl", "Zp"} else character


def words(text: str) -> int:
    """How many words: runs between spaces that hold a letter or a digit (a lone full stop is none)."""
    return sum(any(character.isalnum() for character in word) for word in text.split())


def choose(captions: Iterable[Caption], rules: CaptionRules, dropped: Dropped) -> list[Caption]:
    """Captions that keep the rules, cleaned; the others are added to `dropped`."""
    kept: list[Caption] = []
    for caption in captions:
        text = clean(caption.text, rules.lowercase)
        reason = _fault(words(text), rules)
        if reason is None:
            kept.append(replace(caption, text=text))
        else:
            dropped.add(reason, caption)
    return kept


def without_repeats(captions: Iterable[Caption], split: Mapping[str, str], dropped: Dropped) -> list[Caption]:
    """`captions` less those of training images that repeat another of their image (letter case aside).

    split: image -> split. Evaluation keeps its repeats: published protocols count each as a query (Flickr8k's
    5,000), where it does no harm.
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


def _fault(count: int, rules: CaptionRules) -> str | None:
    if count == 0:
        return "no words"
    if count < rules.min_words:
        return f"fewer than {rules.min_words} words"
    if count > rules.max_words:
        return f"more than {rules.max_words} words"
    return None
