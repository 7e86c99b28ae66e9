"""What the fuzzer starts from, and all that it ever found, through its targets once."""

from pathlib import Path

import pytest

from tests.factories import load_script

HERE = Path(__file__).parent
SEEDS = sorted((HERE / "seeds").glob("*/*"))


@pytest.fixture(scope="session")
def targets():
    return load_script("tests/fuzz/targets.py")


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_seed(path, targets):
    targets.TARGETS[path.parent.name](path.read_bytes())


def test_each_target_has_seeds(targets):
    assert {path.parent.name for path in SEEDS} == set(targets.TARGETS)
    assert all(path.stat().st_size <= 1 << 14 for path in SEEDS)
