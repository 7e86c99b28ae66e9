"""In processes of its own: it cannot be undone."""

import os
import subprocess
import sys

import pytest

from clipline.heap import keep_freed_memory

WORK = """
import resource, sys
import numpy as np
from clipline.heap import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
sums = [np.ones(10_000_000, np.float32).sum() for _ in range(20)]
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the kernel had to find for 20 blocks of 40 MB, one after the other."""
    command, env = [sys.executable, "-c", WORK, how], os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    kept, count = done.stdout.split()
    assert (kept == "True") == (how == "keep")
    return int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_a_freed_block_is_taken_again():
    assert faults("keep") < faults("as it comes") / 4


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
