"""Too little memory (RLIMIT_AS) in every stage: an end that nobody takes for success, and nothing half."""

import re
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.conftest import STAGES, Place, check_nothing_half

# Of the addresses that a stage uses: from almost enough, which fails at work, to where its libraries do not load.
SHARES = (0.97, 0.9, 0.75, 0.4)


@pytest.mark.skipif(not Path("/proc/self/status").exists() or not shutil.which("bash"), reason="needs Linux")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_too_little_memory(stage, finished, place, fault):
    expected = place.result(stage)
    place.clear(stage)
    most = peak(place, stage)
    for share in SHARES:
        place.clear(stage)
        with fault("out of memory") as one:
            code, said = place.run(stage, "bash", "-c", f'ulimit -v {int(most * share)}; exec "$@"', "bash")
            print(f"{stage}, {share:.0%} of {most / 1e6:.1f} GB: exit {code}: {said[-150:]!r}")  # noqa: T201
            if code == 0:
                assert place.result(stage) == expected, said
                one.recovered()  # it found a way with less
            else:
                check_nothing_half(place, stage, finished)
                assert said.strip() or code < 0
                if "Traceback" in said or not re.search("^[a-z]+: error: .*Fix", said, re.MULTILINE):
                    one.ended()  # libraries that do not even load, or threads that cannot start
                else:
                    one.told(said)
    place.clear(stage)
    code, said = place.run(stage)
    assert code == 0 and place.result(stage) == expected, said


def peak(place: Place, stage: str) -> int:
    """kB of addresses that the stage has at most."""
    process, most = place.start(stage), 0
    while process.poll() is None:
        try:
            found = re.search(r"VmPeak:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        except OSError:
            break
        most = max(most, int(found[1]) if found else 0)
        time.sleep(0.02)
    assert process.wait(200) == 0, place.said()
    return most
