"""The number of CPU cores that this process may use: inside containers the system reports all of the host's."""

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
    """The number of cores that the scheduler may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> float | None:
    """The smallest cgroup quota that holds for this process, in cores; None where there is none."""
    return min(quotas(CGROUP, Path("/proc/self/cgroup")), default=None)


def multiplies_bytes() -> bool:
    """Whether the CPU sums products of bytes without saturation (VNNI); False where /proc/cpuinfo does not say."""
    return any("vnni" in line for line in _text(Path("/proc/cpuinfo")).splitlines() if line.startswith("flags"))


def quotas(mount: Path, membership: Path) -> list[float]:
    """The CPU quotas, in cores, of this process's cgroup and its parents, in version 2 and version 1.

    mount: the folder where cgroups are mounted. membership: a file with lines `number:controllers:path`, as
    /proc/self/cgroup has them.
    """
    limits = []
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / controllers if controllers else mount
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's, of which only the root of the mount is visible.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                limits += _quota(folder)
    return limits


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
