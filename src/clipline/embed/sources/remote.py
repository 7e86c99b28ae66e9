"""Images below a URL that fsspec understands: `s3://bucket/prefix`, `gs://`, `http://` with an index page, `memory://`.

Object stores list everything below a prefix in pages of 1,000 keys; elsewhere each folder is listed by itself. A
folder that cannot be listed ends the run: half a list would make images look removed.

`except Exception` stands where each file system, and the network library below it, raises kinds of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from operator import itemgetter
from typing import Any

from clipline.embed.item import MAX_BYTES, Failure, Stat
from clipline.embed.sources.patterns import Patterns, is_hidden, is_image
from clipline.embeddings.paths import to_name, to_text
from clipline.errors import CliplineError, UsageError, address, missing_extra, redact

STORES = frozenset(["s3", "s3a", "gs", "gcs"])
# Deeper, links lead round in a circle, as a web server may serve them.
DEEPEST = 64
# Per protocol: the package that speaks it, and the extra that brings it.
PACKAGES = {
    **dict.fromkeys(["s3", "s3a"], ("s3fs", "remote")),
    **dict.fromkeys(["http", "https"], ("aiohttp", "remote")),
    **dict.fromkeys(["gs", "gcs"], ("gcsfs", "gcs")),
}
CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket "
    "FSSPEC_S3='{\"anon\": true}'; for a server of your own AWS_ENDPOINT_URL",
    "gs": "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
}
CREDENTIALS |= {"s3a": CREDENTIALS["s3"], "gcs": CREDENTIALS["gs"]}
# How file systems call the time of the last change.
TIMES = ("LastModified", "mtime", "last_modified", "updated", "modified", "Last-Modified", "created")


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """One object. name: as the file system calls it; facts: from the listing, None where that tells no size."""

    path: str
    name: str
    files: Any
    facts: Stat | None

    def stat(self) -> Stat:
        """Raises OSError. bytes is 0 where even a request for it tells no size."""
        if self.facts:
            return self.facts
        try:
            return _facts(self.files.info(self.name)) or Stat(0, 0)
        except Exception as error:
            raise OSError(_reason(error)) from error

    def read(self) -> bytes:
        """Raises OSError, whatever the file system raises."""
        size = self.stat().bytes
        if size > MAX_BYTES:
            raise OSError(f"{size:,} bytes is over the limit of {MAX_BYTES:,}")
        try:
            return self.files.cat_file(self.name)
        except Exception as error:
            raise OSError(_reason(error)) from error


class Remote:
    """Every image below `url` in plain text order of `path`, which starts below the URL.

    As in a folder, images are known by extension, and names that start with a dot are passed over. Keys and
    passwords come from the environment, as each service's own tools take them; a user and password in the URL stay
    out of `root`, and of what is said of failures. An object store is listed once: later walks give the same. Memory:
    its names, about 1.3 kB each while they are listed. Raises UsageError where there is nothing of that name or no
    access to it; walking raises CliplineError where a listing fails.
    """

    def __init__(self, url: str, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self.root = address(url).rstrip("/")
        self._protocol = url.partition("://")[0]
        self._patterns = Patterns(include, exclude)
        self._files, top = _connect(url, self._protocol, self.root)
        self._top = top.rstrip("/")
        self._listed: list[tuple[str, Stat | None]] | None = None
        self._check()

    def __iter__(self) -> Iterator[RemoteItem | Failure]:
        entries = self._store() if self._protocol in STORES else self._walk("", 0)
        for found in entries:
            if isinstance(found, Failure):
                yield found
            else:
                path, facts = found
                yield RemoteItem(path, self._name(path), self._files, facts)

    def _check(self) -> None:
        """Raises UsageError or CliplineError where the walk cannot begin."""
        try:
            info = self._files.info(self._top)
        except FileNotFoundError:
            raise UsageError(f"{self.root}: nothing there. Fix: check the bucket and the path below it") from None
        except Exception as error:
            raise self._refused(error) from error
        # Every page of the web is a `file`.
        if info["type"] == "file" and (is_image(self._top) or self._protocol not in ("http", "https")):
            raise UsageError(f"{self.root}: is one file. Fix: give the URL of its folder, and --include its name")

    def _refused(self, error: Exception) -> CliplineError:
        fix = CREDENTIALS.get(self._protocol)
        denied = isinstance(error, PermissionError) or "redential" in f"{type(error).__name__}{error}"
        if denied and fix:
            return UsageError(f"{self.root}: no access: {_reason(error)}. Fix: {fix}")
        return CliplineError(f"{self.root}: cannot be listed: {_reason(error)}")

    def _name(self, path: str) -> str:
        return f"{self._top}/{to_name(path)}"

    def _store(self) -> list[tuple[str, Stat | None]]:
        if self._listed is not None:
            return self._listed
        try:
            found = self._files.find(self._top, detail=True)
        except Exception as error:
            raise self._refused(error) from error
        paths = ((to_text(name.removeprefix(f"{self._top}/")), info) for name, info in found.items())
        self._listed = sorted(
            ((path, _facts(info)) for path, info in paths if info["type"] == "file" and self._takes(path)),
            key=itemgetter(0),
        )
        return self._listed

    def _walk(self, prefix: str, depth: int) -> Iterator[tuple[str, Stat | None] | Failure]:
        folder = self._name(prefix).rstrip("/")
        try:
            infos = self._files.ls(folder, detail=True)
        except Exception as error:
            raise self._refused(error) from error
        children = {}
        for info in infos:
            name = to_text(info["name"].rstrip("/").removeprefix(f"{folder}/"))
            # A web page may also link to itself, upwards and elsewhere.
            if info["name"].startswith(f"{folder}/") and "/" not in name and name not in ("", ".", ".."):
                children[f"{name}/" if info["type"] == "directory" else name] = info
        for name in sorted(children):
            path = prefix + name
            if not name.endswith("/"):
                if self._takes(path):
                    yield path, _facts(children[name])
            elif is_hidden(name) or not self._patterns.enters(path):
                continue
            elif depth == DEEPEST:
                yield Failure(path, "scan", f"more than {DEEPEST} folders deep: not listed")
            else:
                yield from self._walk(path, depth + 1)

    def _takes(self, path: str) -> bool:
        return is_image(path) and not is_hidden(path) and self._patterns.takes(path)


def _connect(url: str, protocol: str, shown: str) -> tuple[Any, str]:
    """The file system, and what it calls the URL. Raises UsageError."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise missing_extra("fsspec", "remote") from None
    if "*" in url:
        raise UsageError(f"{shown}: no patterns in a URL. Fix: give the folder's URL, and the pattern as --include")
    try:
        # Its own cache of listings would be a second copy of all names.
        return url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        if protocol in PACKAGES:
            raise missing_extra(*PACKAGES[protocol]) from None
        raise UsageError(f"{shown}: needs another package: {_reason(error)}") from None
    except Exception as error:
        raise UsageError(f"{shown}: {_reason(error)}") from error


def _facts(info: dict[str, Any]) -> Stat | None:
    """Size and time from what a file system says of a file; None without a size."""
    size = info.get("size")
    if size is None:
        return None
    return Stat(int(size), next((_nanoseconds(info[key]) for key in TIMES if info.get(key)), 0))


def _nanoseconds(time: object) -> int:
    """A datetime, seconds, or text in ISO 8601 or HTTP's form -> nanoseconds since 1970, 0 for anything else."""
    if isinstance(time, int | float):
        return round(time * 10**6) * 1000 if 0 <= time < 2**33 else 0
    try:
        if isinstance(time, str):
            time = parsedate_to_datetime(time) if "," in time else datetime.fromisoformat(time)
        past = time.replace(tzinfo=time.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, AttributeError, TypeError):
        return 0
    return max(0, (past.days * 86_400 + past.seconds) * 10**9 + past.microseconds * 1000)


def _reason(error: Exception) -> str:
    """One short line."""
    if isinstance(error, FileNotFoundError):
        return "not found"
    said = getattr(error, "strerror", None) or str(error)
    return redact(said.partition("\n")[0])[:200].rstrip(".") or type(error).__name__
