"""The raw folder that every source ends in: images/, captions.csv, source.json.

It is made in a scratch folder, checked against what the dataset's settings expect, and only then renamed to
where it belongs: a stage that fails or is killed leaves no half dataset behind.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clipline.config.dataset import Expect
from clipline.errors import CliplineError

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
        ".ppm",
    )
)


class Row(NamedTuple):
    """One caption. image: the image's name, as the source spells it or (in captions.csv) as a raw file."""

    image: str
    caption: str
    split: str | None = None


@dataclass(frozen=True)
class Collected:
    """A source's files, whole, in a scratch folder.

    folder holds images/. sha256: of the archive or table, None where there is none. skipped: what was left
    out, by reason. notes: more for source.json.
    """

    folder: Path
    rows: list[Row]
    sha256: str | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def reconcile(
    rows: list[Row], images: Collection[str], expect: Expect, where: str, excused: Collection[str] = ()
) -> tuple[list[Row], dict[str, int]]:
    """Keep the captions whose image is there, count the rest.

    An image without captions is left out and counted. A caption without its image is an error, unless the
    counts in `expect` hold without it or the image is `excused`. Raises CliplineError that names the files.
    """
    here, named = set(images), {row.image for row in rows}
    absent = Counter(row.image for row in rows if row.image not in here)
    bare = sorted(here - named)
    kept = [row for row in rows if row.image in here]
    found = f"{len(here & named):,} images with {len(kept):,} captions"
    faults = []
    if absent:
        faults.append(f"captions name {len(absent):,} images that are not there: {some(sorted(absent))}")
    if bare:
        faults.append(f"{len(bare):,} images have no caption: {some(bare)}")
    if not holds(expect, len(here & named), len(kept)):
        details = "".join(f"\n  {fault}" for fault in faults)
        raise CliplineError(
            f"{where}: expected {wanted(expect)}, found {found}{details}\n"
            "Fix: complete the source, or set `expect` in the dataset's settings to what you have (or null)"
        )
    if not kept:
        raise CliplineError(f"{where}: no image has a caption: {'; '.join(faults) or 'nothing was found'}")
    if expect.images is None and expect.captions is None and set(absent) - set(excused):
        raise CliplineError(
            f"{where}: {faults[0]}\nMend: add the images or remove their captions; to leave them out, set "
            f"`expect: {{images: {len(here & named)}, captions: {len(kept)}}}` in the dataset's settings"
        )
    return kept, {"captions_without_image": absent.total(), "images_without_caption": len(bare)}


def holds(expect: Expect, images: int, captions: int) -> bool:
    """Whether the counts are those that the settings expect."""
    return expect.images in (None, images) and expect.captions in (None, captions)


def wanted(expect: Expect) -> str:
    """The expected counts in words."""
    parts = [f"{n:,} {what}" for n, what in ((expect.images, "images"), (expect.captions, "captions")) if n]
    return " with ".join(parts)


def some(names: Collection[str], limit: int = 5) -> str:
    """The first few of many names."""
    shown = ", ".join(list(names)[:limit])
    return f"{shown}, and {len(names) - limit:,} more" if len(names) > limit else shown


def flat_name(relative: str) -> str:
    """A path below the images' folder -> name of a raw file: folders become `__`, accents are composed."""
    return unicodedata.normalize("NFC", relative).replace("/", "__")


def flat_names(relatives: Iterable[str], where: str) -> dict[str, str]:
    """{raw name: relative path}. Raises CliplineError where two become one, if only on macOS or Windows."""
    names: dict[str, str] = {}
    folded: dict[str, str] = {}
    for relative in relatives:
        name = flat_name(relative)
        other = folded.setdefault(name.casefold(), relative)
        if other != relative:
            raise CliplineError(f"{where}: {other} and {relative} cannot both be kept: their names clash. Rename one")
        names[name] = relative
    return names


def write_captions(path: Path, rows: list[Row]) -> None:
    """captions.csv; it has a split column where the source named splits."""
    split = any(row.split is not None for row in rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        plain = csv.writer(file, lineterminator="\n")
        # A lone carriage return ends a row for every reader, but csv quotes only the line end that it writes itself.
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(["image", "caption", "split"][: 2 + split])
        for row in rows:
            fields = [row.image, row.caption, row.split or ""][: 2 + split]
            (quoted if any("\r" in field for field in fields) else plain).writerow(fields)


def write_tables(found: Collected, kind: str, path: str | None) -> dict[str, Any]:
    """captions.csv and source.json beside the images; return what source.json says."""
    write_captions(found.folder / "captions.csv", found.rows)
    source = {
        "kind": kind,
        "path": path,
        "sha256": found.sha256,
        "images": len({row.image for row in found.rows}),
        "captions": len(found.rows),
        "skipped": found.skipped,
        **found.notes,
    }
    text = json.dumps(source, indent=2, ensure_ascii=False) + "\n"
    (found.folder / "source.json").write_text(text, encoding="utf-8")
    return source


def prune(folder: Path, names: Collection[str]) -> None:
    """Remove what an earlier, killed run left in `folder` and this one does not want."""
    wanted_names = set(names)
    for entry in folder.iterdir():
        if entry.name not in wanted_names:
            entry.unlink()


def check_target(out: Path) -> None:
    """Fail before any work where `out` cannot be written or holds something already."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise CliplineError(f"{out}: this is where the dataset goes, but it is no folder. Remove it")
    if out.is_dir() and any(out.iterdir()):
        raise CliplineError(f"{out}: not empty, and nothing is overwritten here. Remove it, or let `dvc repro` do that")
    make_writable(out.parent)


def make_writable(folder: Path) -> None:
    """Make `folder`; raise CliplineError where no file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CliplineError(f"{folder}: cannot write here: {error.strerror}. Fix its permissions or mount") from None


def publish(folder: Path, out: Path) -> None:
    """Rename the finished `folder` to `out`, which may be an empty folder; across file systems copy first."""
    try:
        folder.rename(out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = out.with_name(f".{out.name}.{os.getpid()}.part")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(folder, beside)
        beside.rename(out)
