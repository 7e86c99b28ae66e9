"""The raw folder that every source makes: images/, captions.csv and source.json.

It is made in a scratch folder, checked against what the dataset's settings expect, and only then renamed to its final
path: a stage that fails or is killed leaves no incomplete dataset behind.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clipline.config.dataset import Expect
from clipline.errors import CliplineError, first_few, shorten
from clipline.utils.remedies import why

MAX_NAME_BYTES = 240  # Linux, macOS and Windows take 255
LINES = 20  # line numbers in source.json


class CaptionRow(NamedTuple):
    """One caption. image: the image's name as the source spells it, or (in captions.csv) the name of its raw file."""

    image: str
    caption: str
    split: str | None = None


class CaptionTable(NamedTuple):
    """A caption table that was read.

    short: the lines that end before their caption. joined: those whose caption holds unquoted delimiters.
    """

    rows: list[CaptionRow]
    short: Sequence[int] = ()
    joined: Sequence[int] = ()

    def notes(self) -> dict[str, Any]:
        """What source.json says of these lines."""
        notes: dict[str, Any] = {"lines_without_caption": self.short[:LINES]} if self.short else {}
        if self.joined:
            joined = {"count": len(self.joined), "first_lines": self.joined[:LINES]}
            notes["captions_with_unquoted_delimiters"] = joined
        return notes


@dataclass(frozen=True)
class Collected:
    """The complete files of a source in a scratch folder.

    folder: contains images/. sha256: of the archive or table, None if there is none. skipped: {reason: how many were
    left out}. notes: further entries for source.json.
    """

    folder: Path
    rows: list[CaptionRow]
    sha256: str | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def reconcile(
    rows: list[CaptionRow], images: Collection[str], expect: Expect, where: str, excused: Collection[str] = ()
) -> tuple[list[CaptionRow], dict[str, int]]:
    """Keep the captions whose image exists, and count the others.

    An image without captions is left out and counted. A caption without its image is an error, unless the counts in
    `expect` are right without it or the image is `excused`. where: for messages.
    Returns (the kept captions, {reason: how many were skipped}). Raises CliplineError that names the files.
    """
    existing, named = set(images), {row.image for row in rows}
    absent = Counter(row.image for row in rows if row.image not in existing)
    uncaptioned = sorted(existing - named)
    kept = [row for row in rows if row.image in existing]
    n_images, n_captions = len(existing & named), len(kept)
    faults = []
    if absent:
        faults.append(f"captions name {len(absent):,} images that are not there: {first_few(sorted(absent))}")
    if uncaptioned:
        faults.append(f"{len(uncaptioned):,} images have no caption: {first_few(uncaptioned)}")
    if expect.images not in (None, n_images) or expect.captions not in (None, n_captions):
        counts = ((expect.images, "images"), (expect.captions, "captions"))
        wanted = " with ".join(f"{count:,} {what}" for count, what in counts if count)
        raise CliplineError(
            f"{where}: expected {wanted}, found {n_images:,} images with {n_captions:,} captions",
            *(f"  {fault}" for fault in faults),
            "Fix: complete the source, or set `expect` in the dataset's settings to what you have (or null)",
        )
    if not kept:
        raise CliplineError(f"{where}: no image has a caption: {'; '.join(faults) or 'nothing was found'}")
    if expect.images is None and expect.captions is None and set(absent) - set(excused):
        raise CliplineError(
            f"{where}: {faults[0]}. Fix: add the images or remove their captions; to leave them out, set "
            f"`expect: {{images: {n_images}, captions: {n_captions}}}` in the dataset's settings"
        )
    return kept, {"captions_without_image": absent.total(), "images_without_caption": len(uncaptioned)}


def flat_name(relative: str) -> str:
    """A path below the image folder -> the name of its raw file: `/` becomes `__`, and accents are composed (NFC).

    A name that file systems would refuse as too long keeps its end, behind a hash of the whole.
    """
    name = unicodedata.normalize("NFC", relative).replace("/", "__")
    encoded = name.encode(errors="surrogatepass")
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    return f"{hashlib.sha256(encoded).hexdigest()[:16]}_{encoded[-MAX_NAME_BYTES // 2 :].decode(errors='ignore')}"


def flat_names(relatives: Iterable[str], where: str) -> dict[str, str]:
    """{raw name: relative path}. Raises CliplineError where two names become one, even if only on macOS or Windows."""
    names: dict[str, str] = {}
    folded: dict[str, str] = {}
    for relative in relatives:
        name = flat_name(relative)
        other = folded.setdefault(name.casefold(), relative)
        if other != relative:
            clash = f"{shorten(other)} and {shorten(relative)} clash as raw file names"
            raise CliplineError(f"{where}: {clash}. Fix: rename one")
        names[name] = relative
    return names


def write_captions(path: Path, rows: list[CaptionRow]) -> None:
    """Write captions.csv; it has a split column if the source names splits."""
    split = any(row.split is not None for row in rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        plain = csv.writer(file, lineterminator="\n")
        # A lone carriage return ends a row for every reader, but csv only quotes the line end that it writes itself.
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(["image", "caption", "split"][: 2 + split])
        for row in rows:
            fields = [row.image, row.caption, row.split or ""][: 2 + split]
            (quoted if any("\r" in field for field in fields) else plain).writerow(fields)


def write_tables(collected: Collected, kind: str, path: str | None) -> dict[str, Any]:
    """Write captions.csv and source.json beside the images; return the contents of source.json."""
    write_captions(collected.folder / "captions.csv", collected.rows)
    source = {
        "kind": kind,
        "path": path,
        "sha256": collected.sha256,
        "images": len({row.image for row in collected.rows}),
        "captions": len(collected.rows),
        "skipped": collected.skipped,
        **collected.notes,
    }
    text = json.dumps(source, indent=2, ensure_ascii=False) + "\n"
    (collected.folder / "source.json").write_text(text, encoding="utf-8")
    return source


def prune(folder: Path, names: Collection[str]) -> None:
    """Remove files that an earlier, killed run left in `folder` and that are not among `names`."""
    for entry in folder.iterdir():
        if entry.name not in names:
            entry.unlink()


def check_target(out: Path) -> None:
    """Raise CliplineError, before any work, where `out` cannot be written or already holds something."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise CliplineError(f"{out}: the dataset is written here, but this is not a folder. Fix: remove it")
    if out.is_dir() and any(out.iterdir()):
        raise CliplineError(f"{out}: not empty, and nothing is overwritten. Fix: remove it, or let `dvc repro` do that")
    make_writable(out.parent)


def make_writable(folder: Path) -> None:
    """Create `folder`. Raises CliplineError where no file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CliplineError(f"{folder}: cannot write here: {why(error)}") from None


def publish(folder: Path, out: Path) -> None:
    """Rename the finished `folder` to `out`, which may be an empty folder; across file systems it is copied first."""
    try:
        folder.rename(out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = out.with_name(f".{out.name}.{os.getpid()}.part")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(folder, beside)
        beside.rename(out)
