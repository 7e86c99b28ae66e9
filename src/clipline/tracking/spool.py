"""What a stage could not send to the store, on disk until a later stage can."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clipline.config.base import repository_root
from clipline.errors import CliplineError
from clipline.tracking.messages import say
from clipline.tracking.receipt import Receipt
from clipline.utils import checksums
from clipline.utils.files import atomic

# kind ("metrics", "tags", ...) and keyword arguments of the sender's method for it.
Message = tuple[str, dict[str, Any]]
RECEIPT = "receipt"


class Spool:
    """The messages of one run, in order, each a JSON file; files that they name are copied beside them.

    receipt: of the run; it stands there too, so that a run that its store has never seen can be made.
    DVC's outs may change before a message is sent, hence the copies.
    """

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt
        self.folder = _root() / receipt.run_id

    def keep(self, messages: Iterable[Message]) -> None:
        """Add messages behind those that are there. Raises OSError where the disk refuses."""
        last = max((int(path.stem) for path in self._files()), default=-1)
        self.receipt.write(self.folder / RECEIPT)
        for number, (kind, arguments) in enumerate(messages, start=last + 1):
            copied = {"path": self._copied(Path(arguments["path"]), number)} if "path" in arguments else {}
            with atomic(self.folder / f"{number:06d}.json") as file:
                values = {"kind": kind, "arguments": arguments | copied}
                file.write(json.dumps(checksums.with_checksum(values)).encode())

    def send(self, send: Callable[..., None]) -> int:
        """Give each message to `send`, in order, and forget it; what `send` raises ends it. Returns how many.

        One that is damaged is left out, with a line that says so: it must not stop a stage.
        """
        files = self._files()
        for path in files:
            try:
                message = checksums.verify_checksum(json.loads(path.read_bytes()))
            except (ValueError, RecursionError) as error:
                say(f"{path}: damaged ({error}), left out")
            else:
                send(message["kind"], **message["arguments"])
            path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        return len(files)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    def _copied(self, path: Path, number: int) -> str:
        copy = self.folder / "files" / str(number) / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        elif path.exists():  # else it is gone, as the sender will find
            shutil.copy(path, copy)
        return str(copy)


def spools() -> list[Spool]:
    """Those of all runs of this repository that have messages waiting."""
    found = []
    for path in sorted(_root().glob(f"*/{RECEIPT}")):
        try:
            found.append(Spool(Receipt.read(path)))
        except CliplineError:
            say(f"{path}: damaged: what waits there cannot be sent. Fix: delete {path.parent}")
    return found


def _root() -> Path:
    return repository_root() / ".cache" / "tracking"
