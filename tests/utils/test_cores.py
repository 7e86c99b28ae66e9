"""CPU cores under container limits: version 2 and version 1 of cgroups, as files in a folder."""

import os
from pathlib import Path

import pytest

from clipline.utils import cores

V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, [1.5]),
        ("0::/\n", {"cpu.max": "max 100000"}, []),
        ("0::/\n", {}, []),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, [2.0]),
        ("0::/host/only\n", {"cpu.max": "50000 100000"}, [0.5]),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, [3.0]),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, []),
        ("", {"cpu.max": "100000 100000"}, []),
    ],
)
def test_quotas(tmp_path, membership, files, expected):
    write(tmp_path / "self", membership)
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    assert cores.quotas(tmp_path / "cgroup", tmp_path / "self") == expected


def test_the_smallest_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "quotas", lambda *_: [0.2, 64.0])
    assert cores.available() == 1
    monkeypatch.setattr(cores, "quotas", lambda *_: [])
    assert cores.available() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("processor : 0\nflags\t\t: fpu avx2\nmodel name : vnni\n", False),
        ("", False),
    ],
)
def test_vnni_is_read_from_the_flags(monkeypatch, cpuinfo, expected):
    monkeypatch.setattr(cores, "_text", lambda path: cpuinfo)
    assert cores.multiplies_bytes() is expected


def test_affinity_and_quota_apart(monkeypatch):
    monkeypatch.setattr(cores, "quotas", lambda *_: [2.5, 1.5])
    assert (cores.quota(), cores.affinity()) == (1.5, len(os.sched_getaffinity(0)))
    monkeypatch.setattr(cores, "quotas", lambda *_: [])
    assert cores.quota() is None
