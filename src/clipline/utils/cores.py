"""How many CPU cores this process may really use: containers show all of the host's."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """The smaller of the CPU affinity and the cgroup quota (rounded up), at least 1."""
    limit = quota()
    return affinity() if limit is None else max(1, min(affinity(), math.ceil(limit)))


def affinity() -> int:
    """How many cores this process may be put on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> float | None:
    """The cgroup quota in cores, the smallest above this process; None where there is none."""
    return min(quotas(CGROUP, Path("/proc/self/cgroup")), default=None)


def multiplies_bytes() -> bool:
    """Whether the CPU adds up products of bytes without saturation (VNNI); False where it cannot be told."""
    return any("vnni" in line for line in _text(Path("/proc/cpuinfo")).splitlines() if line.startswith("flags"))


def quotas(mount: Path, membership: Path) -> list[float]:
    """The CPU quotas, in cores, of this process's cgroup and those above it; version 2 and version 1.

    mount: where cgroups are mounted; membership: the lines `number:controllers:path` of /proc/self/cgroup.
    """
    found = []
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / controllers if controllers else mount
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's, of which only the mount's own root can be seen.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                found += _quota(folder)
    return found


def _quota(folder: Path) -> list[float]:
    limit = _text(folder / "cpu.max").split() or [
        _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    if len(limit) != 2 or not all(value.isdigit() for value in limit) or int(limit[1]) == 0:
        return []  # no such file, `max` or -1: no limit here
    return [int(limit[0]) / int(limit[1])]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
