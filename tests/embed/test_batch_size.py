"""The knee of the batch size, on rates that are given and on a real model."""

import pytest

from clipline.embed.batch_size import knee, pick_batch_size
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel


@pytest.mark.parametrize(
    ("rates", "size"),
    [
        ([10, 20, 30, 31, 99], 4),  # 31 is under 5% more than 30; what comes after is not measured
        ([10, 9, 100], 1),
        ([10, 20, MemoryError()], 2),
        ([10, 20, CliplineError("out of memory")], 2),
        ([2**n for n in range(20)], 1024),
    ],
)
def test_the_knee(rates, size):
    def measure(count):
        rate = rates[count.bit_length() - 1]
        if isinstance(rate, Exception):
            raise rate
        return rate

    assert knee(measure)[0] == size


def test_a_model_that_cannot_take_one_image_is_an_error():
    def measure(count):
        raise CliplineError("broken")

    with pytest.raises(CliplineError, match="broken"):
        knee(measure)


@pytest.mark.parametrize("wanted", ["0", "-3", "many", "1.5", ""])
def test_bad_sizes(wanted):
    with pytest.raises(UsageError, match="a number above 0, or auto"):
        pick_batch_size(None, wanted, print)


def test_auto_on_a_real_model(bundle, monkeypatch):
    monkeypatch.setattr("clipline.embed.batch_size.SECONDS", 0.02)
    lines = []
    size = pick_batch_size(OnnxModel(bundle, provider="cpu", threads=1), "auto", lines.append)
    assert size & (size - 1) == 0
    assert lines[0].startswith(f"--batch-size auto: {size} (images/s at 1: ")
    assert pick_batch_size(None, "7", lines.append) == 7 and len(lines) == 1
