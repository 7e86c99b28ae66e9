"""The fastest precision is measured, and a tie goes to the more exact one."""

import time

import pytest

from clipline.runtime.precision import fastest, pick_precision


def test_takes_the_fastest_and_says_why():
    calls = {"fp32": lambda: time.sleep(0.03), "int8": lambda: time.sleep(0.01), "fp16": lambda: time.sleep(0.05)}
    start = time.perf_counter()
    chosen, words = fastest(calls, 16, seconds=0.2)
    assert chosen == "int8" and 0.6 < time.perf_counter() - start < 30
    choice, rates = words.removesuffix(" images/s").split(": ")
    assert choice == "int8, the fastest here"
    assert [rate.split()[0] for rate in rates.split(", ")] == ["int8", "fp32", "fp16"]
    assert 100 < int(rates.split(", ")[0].split()[1].replace(",", "")) <= 1600


def test_a_moment_that_is_busy_does_not_decide():
    naps = iter([0.0, 0.3, 0.01, 0.01, 0.01, 0.01, 0.01])
    calls = {"fp32": lambda: time.sleep(0.05), "int8": lambda: time.sleep(next(naps, 0.01))}
    assert fastest(calls, 16, seconds=0.33)[0] == "int8"


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"int8": 103, "fp32": 100, "fp16": 104}, "fp32"),
        ({"int8": 108, "fp32": 100, "fp16": 104}, "int8"),
        ({"int8": 108, "fp32": 100, "fp16": 107}, "fp16"),
        ({"fp32": 100, "fp16": 400, "int8": 20}, "fp16"),
        ({"int8": 1}, "int8"),
    ],
)
def test_nearly_as_fast_and_more_exact_wins(rates, chosen):
    assert pick_precision(rates) == chosen
