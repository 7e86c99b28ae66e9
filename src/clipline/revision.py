"""Which version of the repository is running."""

from __future__ import annotations

import subprocess
from pathlib import Path


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
