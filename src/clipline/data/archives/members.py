"""Which members of an archive are safe to unpack.

An archive from elsewhere is not trusted: everything is checked from its list of members before the first byte is
written, and one bad member makes the whole archive refused. What is written later gets flat names that clipline
chooses, so these checks are the first of two defences.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from clipline.errors import CliplineError, shorten
from clipline.utils.image_names import is_hidden, machine_folder

# Photos hardly compress; a text table shrinks to a quarter. Above this ratio, past the allowance, it is a zip bomb.
MAX_RATIO = 100
ALLOWANCE = 100 * 2**20


class DamagedError(CliplineError):
    """An archive that is cut short or corrupt."""


@dataclass(frozen=True)
class Member:
    """One regular file of an archive or folder.

    name: relative, with `/`. size: in bytes. handle: what its reader opens it by. crc: CRC-32, where the format has it.
    mtime: modification time in nanoseconds, where a copy should keep it.
    """

    name: str
    size: int
    handle: Any
    crc: int | None = None
    mtime: int | None = None


def safe_name(name: str, where: str) -> str:
    """A member's name with `/` and without `./`. Raises CliplineError where it leads out of its folder."""
    slashed = name.replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if slashed.startswith("/") or re.match(r"[A-Za-z]:/", slashed) or ".." in parts:
        raise unsafe(where, f"member {_quoted(name)} points outside the archive")
    if "\0" in name:
        raise CliplineError(f"{where}: the name of member {_quoted(name)} contains a NUL character. Fix: pack it again")
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        raise CliplineError(
            f"{where}: the name of member {_quoted(name)} is not valid UTF-8. Fix: pack it again"
        ) from None
    return "/".join(parts)


def hidden(name: str) -> bool:
    """Whether `name` is a dot file, below a dot folder, or in a folder that a machine fills, such as `__MACOSX/`."""
    return is_hidden(name) or machine_folder(name) is not None


def _quoted(name: str) -> str:
    return f"'{shorten(name)}'"


def unsafe(where: str, reason: str) -> CliplineError:
    """The error for an archive that is refused as a whole."""
    return CliplineError(f"{where}: unsafe, nothing was unpacked: {reason}")


def not_a_file(name: str, where: str) -> CliplineError:
    """The error for a member that is neither a file nor a folder."""
    return unsafe(where, f"member {_quoted(name)} is a link or a device, not a file")


class MemberList:
    """The members of one archive, checked as they are listed: duplicate names and zip bombs are refused at once.

    where: the archive's path, for messages. packed: its size in bytes.
    """

    def __init__(self, where: str, packed: int) -> None:
        self.where, self.limit = where, packed * MAX_RATIO + ALLOWANCE
        self._members: dict[str, Member] = {}
        self._name_of: dict[str, str] = {}
        self._total = 0

    def add(self, member: Member) -> None:
        """Add a member. Raises CliplineError where it must not be unpacked beside those before it."""
        if member.size < 0:
            raise DamagedError(
                f"{self.where}: damaged: the size of member {_quoted(member.name)} is negative. Get it again"
            )
        key = unicodedata.normalize("NFC", member.name).casefold()
        other = self._name_of.setdefault(key, member.name)
        if member.name in self._members:
            raise unsafe(self.where, f"{_quoted(member.name)} is in it twice")
        if other != member.name:
            raise unsafe(
                self.where,
                f"{_quoted(other)} and {_quoted(member.name)} are the same file where case does not count. Rename one",
            )
        self._total += member.size
        self.check_size(self._total)
        self._members[member.name] = member

    def check_size(self, size: int) -> None:
        """Raise CliplineError where `size` unpacked bytes, of members or of headers, are too many for this archive."""
        if size > self.limit:
            raise unsafe(
                self.where,
                f"it claims to hold more than {MAX_RATIO} times its own size. If you trust it, unpack it "
                "yourself and set `path` to the folder",
            )

    def visible(self) -> dict[str, Member]:
        """The members that are not hidden, by name."""
        return {name: member for name, member in self._members.items() if not hidden(name)}
