"""Memory kept after free. Runs in separate processes, since it cannot be undone."""

import os
import subprocess
import sys

import pytest

from clipline.utils.malloc import keep_freed_memory

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
NO_HUGE_PAGES = {"NUMPY_MADVISE_HUGEPAGE": "0"}
WORK = """
import resource, sys
import numpy as np
from clipline.utils.malloc import keep_freed_memory

kept, size, blocks = sys.argv[1] == "keep" and keep_freed_memory(), int(sys.argv[2]), int(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(blocks):
    block = np.empty(size, np.uint8)
    block[::4096] = 1
    del block
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, size: int, blocks: int) -> int:
    """Page faults of allocating and freeing so many blocks of `size` bytes, one after the other."""
    command, env = [sys.executable, "-c", WORK, how, str(size), str(blocks)], os.environ | NO_HUGE_PAGES
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    kept, count = done.stdout.split()
    assert (kept == "True") == (how == "keep")
    return int(count)


@LINUX
@pytest.mark.parametrize(("size", "blocks"), [(40_000_000, 20), (2_200_000_000, 2)])
def test_a_freed_block_is_taken_again(size, blocks):
    """Also blocks above the range of a C int: a step of 500 images has 14 GB."""
    assert faults("keep", size, blocks) < 1.5 * size / 4096


@LINUX
def test_as_it_comes_each_block_is_cleared_anew():
    assert faults("as it comes", 40_000_000, 20) > 15 * 40_000_000 / 4096


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
