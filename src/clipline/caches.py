"""Where the user's programs keep what can be made or had again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """clipline's folder among the user's caches, there or not."""
    usual = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(usual) / "clipline"
