"""Which members of an archive are safe to unpack.

An archive from elsewhere is not trusted: everything is checked from its list before the first byte is
written, and one bad member refuses the whole archive. What is written later goes to flat names of our own
choosing, so these checks are the first of two walls.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clipline.errors import CliplineError

# Photos hardly compress; a text table shrinks to a quarter. More than this, past the allowance, is a bomb.
MAX_RATIO = 100
ALLOWANCE = 100 * 2**20
JUNK = "__MACOSX"


class DamagedError(CliplineError):
    """An archive that is cut short or corrupt."""


@dataclass(frozen=True)
class Member:
    """One regular file. name: with `/`, relative; size in bytes; crc: CRC-32 where the format has it;
    mtime: nanoseconds, where a copy should keep it; handle: what its reader opens.
    """

    name: str
    size: int
    handle: Any
    crc: int | None = None
    mtime: int | None = None


def safe_name(name: str, where: str) -> str:
    """A member's name with `/` and without `./`. Raises CliplineError where it leaves its folder."""
    slashed = name.replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if slashed.startswith("/") or re.match(r"[A-Za-z]:/", slashed) or ".." in parts:
        raise CliplineError(f"{where}: unsafe, nothing was unpacked: member {name!r} points outside the archive")
    if "\0" in name:
        raise CliplineError(f"{where}: the name of member {name!r} has a NUL character in it. Pack it anew")
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        raise CliplineError(f"{where}: the name of member {name!a} is not valid UTF-8. Pack it anew") from None
    return "/".join(parts)


def hidden(name: str) -> bool:
    """Whether `name` is a dot file, below a dot folder, or what macOS adds to archives."""
    return any(part.startswith(".") or part == JUNK for part in name.split("/"))


def refuse_type(name: str, where: str) -> CliplineError:
    """The error for a member that is neither file nor folder."""
    return CliplineError(f"{where}: unsafe, nothing was unpacked: member {name!r} is a link or a device, not a file")


class Checked:
    """Collects members while their archive is listed; refuses overwrites and bombs as soon as they show."""

    def __init__(self, where: str, packed: int) -> None:
        self.where, self.limit = where, packed * MAX_RATIO + ALLOWANCE
        self.members: dict[str, Member] = {}
        self._keys: dict[str, str] = {}
        self._total = 0

    def add(self, member: Member) -> None:
        """Raises CliplineError where the member must not be unpacked beside those before it."""
        if member.size < 0:
            raise DamagedError(f"{self.where}: damaged: member {member.name!r} is of less than no size. Get it again")
        key = unicodedata.normalize("NFC", member.name).casefold()
        other = self._keys.setdefault(key, member.name)
        if member.name in self.members:
            raise self._unsafe(f"{member.name!r} is in it twice")
        if other != member.name:
            raise self._unsafe(f"{other!r} and {member.name!r} are one file where case does not count. Rename one")
        self._total += member.size
        self.reach(self._total)
        self.members[member.name] = member

    def reach(self, size: int) -> None:
        """Raises CliplineError where `size` bytes, of its members or of what is unpacked to list them, are a bomb."""
        if size > self.limit:
            raise self._unsafe(
                f"it claims to hold more than {MAX_RATIO} times its own size. If you trust it, unpack it "
                "yourself and set `path` to the folder"
            )

    def _unsafe(self, reason: str) -> CliplineError:
        return CliplineError(f"{self.where}: unsafe, nothing was unpacked: {reason}")


def visible(members: Iterable[Member]) -> list[Member]:
    """The members that are not hidden."""
    return [member for member in members if not hidden(member.name)]
