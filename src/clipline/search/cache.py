"""Where searches keep files that they make of an embeddings folder, and how they find out whether those still fit.

The files lie in `.NAME.index` beside the folder, or among the user's caches, and may be deleted at any time. They never
lie in the embeddings folder itself, which belongs to what wrote it (DVC compares its contents). Their names hold the
fingerprint of the embeddings that they were made of; a JSON file beside them describes them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipline.utils.files import atomic, user_cache

VERSION = 1  # of the files: others are made anew


def cache_folders(embeddings: Path) -> list[Path]:
    """The folders that may hold such files, best first: the second one is for embeddings on a read-only disk."""
    embeddings = embeddings.resolve()
    name = hashlib.sha256(os.fsencode(embeddings)).hexdigest()[:16]
    return [embeddings.with_name(f".{embeddings.name}.index"), user_cache() / "index" / name]


def make_cache_folder(folder: Path) -> None:
    """Make the folder, which git shall not see. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("*\n")


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What `write_metadata` wrote; None where there is nothing that this version understands."""
    try:
        metadata = json.loads(path.read_bytes())
        return metadata if metadata["version"] == VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_metadata(path: Path, metadata: dict[str, Any], files: Sequence[Path]) -> None:
    """Describe `files`, named KIND-FINGERPRINT.SUFFIX, and delete older ones of their kinds. Raises OSError."""
    with atomic(path) as file:
        file.write(json.dumps({"version": VERSION, **metadata}).encode())
    for new in files:
        for old in new.parent.glob(f"{new.name.partition('-')[0]}-*{new.suffix}"):
            if old != new:  # a process that has it open keeps it
                old.unlink(missing_ok=True)
