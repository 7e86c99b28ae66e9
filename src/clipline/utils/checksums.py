"""Hashes by which the next stage tells whole files from damaged ones.

A byte that a disk, a cable or a hand changed leaves most files readable, and what is computed from them wrong. So what
one stage leaves for another is sealed: a JSON file holds the hashes of the files beside it, and its own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

SEAL = "seal"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts`, which JSON can hold, with a hash of themselves."""
    return facts | {SEAL: _hash(facts)}


def unsealed(facts: dict[str, Any], *, needed: bool = True) -> dict[str, Any]:
    """`facts` as they were given to `sealed`. Raises ValueError where they are others, have no seal, or are no object.

    needed: False lets those pass that have none, as files of an older clipline; one whose name is damaged stays a key,
    which nobody knows.
    """
    if not isinstance(facts, dict):
        raise ValueError("no JSON object")
    if not needed and SEAL not in facts:
        return facts
    rest = {name: value for name, value in facts.items() if name != SEAL}
    if facts.get(SEAL) != _hash(rest):
        raise ValueError("not what was written: its own hash is another, or missing")
    return rest


def check_files(folder: Path, hashes: dict[str, str]) -> None:
    """Raise ValueError where a file below `folder` is not the one with that hash; OSError where one cannot be read."""
    for name, expected in hashes.items():
        if file_hash(folder / name) != expected:
            raise ValueError(f"{name} is not what was written: its hash is another")


def _hash(facts: dict[str, Any]) -> str:
    # As JSON gives them back: keys are text, tuples are lists.
    plain = json.loads(json.dumps(facts))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
