"""Clocks that are wrong, and that jump while a stage is at work (libfaketime; Debian's package `faketime`)."""

import shutil
import time
from pathlib import Path

import pytest

from tests.faults.conftest import STAGES

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime (apt-get install faketime)")


def clock(offset: Path) -> dict[str, str]:
    """The environment of a process that reads its clock's offset from a file, anew at each call.

    The monotonic clock is real, as it is when an administrator or a time server sets the other one.
    """
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("offset", ["-9000d", "+9000d"])
def test_a_clock_that_is_wrong(stage, offset, place, fault, tmp_path):
    """Files then have dates decades from now, and certificates and locks other ages."""
    expected = place.result(stage)
    place.clear(stage)
    (tmp_path / "offset").write_text(offset)
    with fault("clock wrong") as one:
        code, said = place.run(stage, **clock(tmp_path / "offset"))
        assert code == 0 and place.result(stage) == expected, said
        one.recovered()
    # And right again, on what the wrong one left.
    with fault("clock wrong") as one:
        shutil.rmtree(place.folder / ".cache", ignore_errors=True)
        place.clear(stage)
        code, said = place.run(stage)
        assert code == 0 and place.result(stage) == expected, said
        one.recovered()


@pytest.mark.timeout(600)
def test_a_clock_that_jumps_while_training(place, fault, tmp_path):
    expected = place.result("train")
    place.clear("train")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    process = place.start("train", **clock(offset))
    with fault("clock jumps") as one:
        for jump in ("-3600", "+86400", "-86400", "+0") * 20:
            time.sleep(0.5)
            offset.write_text(jump)
            if process.poll() is not None:
                break
        assert process.wait(200) == 0 and place.result("train") == expected, place.said()
        assert not list(place.folder.glob(".cache/train/*/state-*"))
        one.recovered()
