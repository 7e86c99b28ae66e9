"""The versions of the repository and of the libraries that results depend on."""

from __future__ import annotations

import hashlib
import subprocess
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "timm", "transformers")


def git_revision(folder: Path) -> str | None:
    """The commit checked out in `folder`, 40 digits; None outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def code_fingerprint(*names: str) -> str:
    """Hash of modules and packages of clipline, and of the LIBRARIES' versions: 20 hexadecimal digits.

    It stands beside saved states: other code or another library may compute other numbers from them.
    """
    digest, home = hashlib.sha256(), Path(__file__).parents[1]
    for path in (home / name for name in names):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(
                f"{file.relative_to(home).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest()
            )
    digest.update(" ".join(metadata.version(name) for name in LIBRARIES).encode())
    return digest.hexdigest()[:20]
