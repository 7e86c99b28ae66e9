"""What a stage logged and the store does not hold yet: in memory while the stage runs, then on disk."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clipline.config.base import repository_root
from clipline.tracking.messages import reason, say
from clipline.tracking.receipt import Receipt
from clipline.utils import checksums

# One point of a curve: name, value, step, timestamp in milliseconds since 1970.
Point = tuple[str, float, int, int]


class Record(BaseModel):
    """What `publish` brings the receipt's run to.

    settings: whether the receipt's params and dataset are part of it. artifacts: files or folders, each with its folder
    among the run's artifacts (None: the top). bundle: the folder of an exported model, with the tags of that model.
    end: the run's status, and when it ended, in milliseconds since 1970.
    """

    receipt: Receipt
    settings: bool = False
    points: list[Point] = []
    artifacts: list[tuple[Path, str | None]] = []
    bundle: tuple[Path, dict[str, str]] | None = None
    tags: dict[str, str] = {}
    end: tuple[str, int] | None = None

    def keep(self) -> Path:
        """Write the record below .cache/tracking, with copies of its files: DVC may replace them before they are sent.

        Returns the JSON file. Raises OSError where the disk refuses.
        """
        path = _root() / self.receipt.run_id / f"{time.time_ns()}.json"
        copies = path.with_suffix("")
        copies.mkdir(parents=True)
        artifacts = [(_copy(file, copies / str(i)), folder) for i, (file, folder) in enumerate(self.artifacts)]
        bundle = self.bundle and (_copy(self.bundle[0], copies / "bundle"), self.bundle[1])
        # Last, and atomically: without this file the copies mean nothing.
        checksums.write_with_checksum(path, self.model_copy(update={"artifacts": artifacts, "bundle": bundle}))
        return path


def kept_records(run_id: str = "*") -> dict[Path, Record]:
    """The records on disk of one run or of all, the oldest first; a damaged one gets a line on stderr instead."""
    records = {}
    for path in sorted(_root().glob(f"{run_id}/*.json")):
        try:
            values = checksums.read_verified(path)
            if "kind" in values:
                receipt = checksums.read_verified(path.with_name("receipt"))
                values = {"receipt": receipt, **_old_message(values["kind"], values["arguments"])}
            records[path] = Record.model_validate(values)
        except (OSError, ValueError, KeyError, RecursionError) as error:
            say(f"{path}: damaged ({reason(error)}): it cannot be sent. Fix: delete it")
    return records


def forget(path: Path) -> None:
    """Delete a record and its copies, and the folder of its run after the last one."""
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    with suppress(OSError):  # what stays is sent again, which changes nothing
        path.unlink()
        if {left.name for left in path.parent.iterdir()} <= {"receipt", "files"}:  # these two are an earlier clipline's
            shutil.rmtree(path.parent)


def _copy(path: Path, folder: Path) -> Path:
    target = folder / path.name
    folder.mkdir()
    if path.is_dir():
        shutil.copytree(path, target)
    elif path.exists():  # else it is gone, as `publish` will say
        shutil.copy(path, target)
    return target


def _old_message(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record, from one of the files in which an earlier clipline kept each log call by itself."""
    values = tuple(arguments.values())  # in the order of the record's pairs
    fields = {"artifact": {"artifacts": [values]}, "bundle": {"bundle": values}, "end": {"end": values}}
    return fields.get(kind) or (arguments if kind in ("metrics", "tags") else {"settings": True})


def _root() -> Path:
    return repository_root().resolve() / ".cache" / "tracking"
