"""SHA-256 checksums, by which a stage tells intact files from damaged ones.

Most files stay readable when a byte of them changes, and results computed from them are wrong. So the files that one
stage writes for another have checksums: a JSON file holds those of the files beside it, and its own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clipline.utils.files import atomic

CHECKSUM_KEY = "seal"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_checksum(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values`, which JSON can hold, with a checksum of themselves under `CHECKSUM_KEY`."""
    return values | {CHECKSUM_KEY: _checksum(values)}


def verify_checksum(values: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """Return `values` without their checksum, after comparing it.

    required: False accepts values that have no checksum, as files of an older clipline. Raises ValueError where the
    values were changed, where a required checksum is missing, or where `values` is not a JSON object.
    """
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if not required and CHECKSUM_KEY not in values:
        return values
    rest = {name: value for name, value in values.items() if name != CHECKSUM_KEY}
    if values.get(CHECKSUM_KEY) != _checksum(rest):
        raise ValueError("changed since it was written: its own checksum is missing or differs")
    return rest


def write_with_checksum(path: Path, values: dict[str, Any] | BaseModel) -> None:
    """Write values and their checksum as indented JSON, atomically. Raises OSError."""
    plain = values.model_dump(mode="json") if isinstance(values, BaseModel) else values
    with atomic(path) as file:
        file.write(_readable(with_checksum(plain)))


def read_verified(path: Path, *, required: bool = True) -> dict[str, Any]:
    """Read what `write_with_checksum` wrote. Raises OSError, and ValueError as `verify_checksum` or for bad JSON."""
    return verify_checksum(json.loads(path.read_bytes()), required=required)


def check_files(folder: Path, hashes: dict[str, str]) -> None:
    """Raise ValueError where a file below `folder` does not have its hash; OSError where one cannot be read."""
    for name, expected in hashes.items():
        if file_hash(folder / name) != expected:
            raise ValueError(f"{name} was changed since it was written: its checksum differs")


def write_json(path: Path, value: BaseModel | dict[str, Any]) -> None:
    """Write indented JSON with a stable key order."""
    path.write_bytes(_readable(value.model_dump(mode="json") if isinstance(value, BaseModel) else value))


def _readable(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _checksum(values: dict[str, Any]) -> str:
    # As JSON returns them: keys are text, tuples are lists.
    plain = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
