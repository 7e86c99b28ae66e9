"""Images below a URL that fsspec understands: `s3://bucket/prefix`, `gs://`, `http://` with an index page, `memory://`.

Object stores list everything below a prefix in pages of 1,000 keys; elsewhere each folder is listed by itself. A
folder that cannot be listed ends the run: after half a list, images would look removed.

`except Exception` is used where each file system, and the network library below it, raises its own exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from operator import attrgetter
from typing import Any

from clipline.embed.item import MAX_BYTES, Failure, Stat
from clipline.embed.sources.patterns import ImageFilter
from clipline.embeddings.paths import to_name, to_text
from clipline.errors import CliplineError, UsageError, address, missing_extra, redact
from clipline.utils.image_names import is_hidden, is_image

STORES = frozenset(["s3", "s3a", "gs", "gcs"])
# Folders. Links of a web server may form a circle.
MAX_DEPTH = 64
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
# The keys under which file systems give the time of the last change.
TIMES = ("LastModified", "mtime", "last_modified", "updated", "modified", "Last-Modified", "created")


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """One object. name: for the file system. listed: size and date from the listing; None where it has no size."""

    path: str
    name: str
    files: Any
    listed: Stat | None

    def stat(self) -> Stat:
        """Size and date. Raises OSError. bytes is 0 where the server tells no size."""
        if self.listed:
            return self.listed
        try:
            return _stat(self.files.info(self.name)) or Stat(0, 0)
        except Exception as error:
            raise OSError(_reason(error)) from error

    def read(self) -> bytes:
        """The object's bytes. Raises OSError, whatever the file system raises."""
        size = self.stat().bytes
        if size > MAX_BYTES:
            raise OSError(f"{size:,} bytes is over the limit of {MAX_BYTES:,}")
        try:
            return self.files.cat_file(self.name)
        except Exception as error:
            raise OSError(_reason(error)) from error


class Remote:
    """Every image below `url` in plain text order of `path`, which starts below the URL.

    As in a folder, images are known by suffix, and names that start with a dot are skipped. Keys and passwords come
    from the environment, as each service's own tools read them; a user and password in the URL stay out of `root` and
    of error messages. An object store is listed once, and iterating again gives the same. Memory: its names, about
    1.3 kB each while they are listed. Raises UsageError where the URL does not exist or access is denied; iterating
    raises CliplineError where a listing fails.
    """

    def __init__(
        self, url: str, *, include: Sequence[str] = (), exclude: Sequence[str] = (), keep_machine_folders: bool = False
    ) -> None:
        self.root = address(url).rstrip("/")
        self._protocol = url.partition("://")[0]
        self._filter = ImageFilter(include, exclude, keep_machine_folders=keep_machine_folders)
        self.passed_over = self._filter.passed_over
        self._files, top = _connect(url, self._protocol, self.root)
        self._top = top.rstrip("/")
        self._check()

    def __iter__(self) -> Iterator[RemoteItem | Failure]:
        if self._protocol in STORES:
            return iter(self._listed)
        self.passed_over.clear()
        return self._walk("", 0)

    def _check(self) -> None:
        """Raise UsageError or CliplineError where the URL cannot be listed."""
        try:
            info = self._files.info(self._top)
        except FileNotFoundError:
            raise UsageError(f"{self.root}: nothing there. Fix: check the bucket and the path below it") from None
        except Exception as error:
            raise self._refused(error) from error
        # To fsspec every web page is a `file`.
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

    def _item(self, path: str, info: dict[str, Any]) -> RemoteItem:
        return RemoteItem(path, self._name(path), self._files, _stat(info))

    @cached_property
    def _listed(self) -> list[RemoteItem]:
        """The images in an object store."""
        try:
            infos = self._files.find(self._top, detail=True)
        except Exception as error:
            raise self._refused(error) from error
        paths = ((to_text(name.removeprefix(f"{self._top}/")), info) for name, info in infos.items())
        items = [self._item(path, info) for path, info in paths if info["type"] == "file" and self._takes(path)]
        return sorted(items, key=attrgetter("path"))

    def _walk(self, prefix: str, depth: int) -> Iterator[RemoteItem | Failure]:
        """The images in a folder and those below it, one folder at a time."""
        folder = self._name(prefix).rstrip("/")
        try:
            infos = self._files.ls(folder, detail=True)
        except Exception as error:
            raise self._refused(error) from error
        children = {}
        for info in infos:
            name = to_text(info["name"].rstrip("/").removeprefix(f"{folder}/"))
            # A web page may also link to itself, to pages above it and to other sites.
            if info["name"].startswith(f"{folder}/") and "/" not in name and name not in ("", ".", ".."):
                children[f"{name}/" if info["type"] == "directory" else name] = info
        for name in sorted(children):
            path = prefix + name
            if not name.endswith("/"):
                if self._takes(path):
                    yield self._item(path, children[name])
            elif is_hidden(name) or not self._filter.enters(path):
                continue
            elif depth == MAX_DEPTH:
                yield Failure(path, "scan", f"more than {MAX_DEPTH} folders deep: not listed")
            else:
                yield from self._walk(path, depth + 1)

    def _takes(self, path: str) -> bool:
        return not is_hidden(path) and self._filter.enters(path) and self._filter.takes(path)


def _connect(url: str, protocol: str, shown: str) -> tuple[Any, str]:
    """The file system, and its name for the URL. shown: the URL without secrets. Raises UsageError."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise missing_extra("fsspec", "remote") from None
    if "*" in url:
        raise UsageError(f"{shown}: no patterns in a URL. Fix: give the folder's URL, and the pattern as --include")
    try:
        # fsspec's cache of listings would be a second copy of all names.
        return url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        if protocol in PACKAGES:
            raise missing_extra(*PACKAGES[protocol]) from None
        raise UsageError(f"{shown}: needs another package: {_reason(error)}") from None
    except Exception as error:
        raise UsageError(f"{shown}: {_reason(error)}") from error


def _stat(info: dict[str, Any]) -> Stat | None:
    """Size and date from the file system's information about a file; None without a size."""
    size = info.get("size")
    if size is None:
        return None
    return Stat(int(size), next((_nanoseconds(info[key]) for key in TIMES if info.get(key)), 0))


def _nanoseconds(time: object) -> int:
    """A datetime, seconds, or text in the form of ISO 8601 or HTTP -> nanoseconds since 1970; 0 for anything else."""
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
    """The error in one short line without secrets."""
    if isinstance(error, FileNotFoundError):
        return "not found"
    message = getattr(error, "strerror", None) or str(error)
    return redact(message.partition("\n")[0])[:200].rstrip(".") or type(error).__name__
