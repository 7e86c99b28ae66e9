"""What tests of several folders need."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipline.search.searcher import Answers

ROOT_USER = os.name == "posix" and os.geteuid() == 0
# Before a command, for one that may not do everything: root may write anywhere; without these two powers it may not.
UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if ROOT_USER else []


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment and `more`, without what would send MLflow, DVC or git to another place."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "GIT_"))}
    return kept | more


def free_port() -> int:
    """Of this machine, at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read and write anything: as root, be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def search(folder: Path, queries: Sequence[str | Path], n: int, **options) -> Answers:
    """Search the embeddings in `folder` once. options: of `open_searcher`."""
    from clipline.search.searcher import open_searcher

    return open_searcher(folder, **options).find(queries, n)
