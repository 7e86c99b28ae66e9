"""What the fuzzer starts from, and all that it ever found, through its targets once."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SEEDS = sorted((HERE / "seeds").glob("*/*"))


@pytest.fixture(scope="session")
def targets():
    spec = importlib.util.spec_from_file_location("fuzz_targets", HERE / "targets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_seed(path, targets):
    targets.TARGETS[path.parent.name](path.read_bytes())


def test_each_target_has_seeds(targets):
    assert {path.parent.name for path in SEEDS} == set(targets.TARGETS)
    assert all(path.stat().st_size <= 1 << 14 for path in SEEDS)
