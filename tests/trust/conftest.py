"""Hostile files, planted secrets, and processes that may not unpickle."""

import pickle
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Payload:
    """Unpickled, it makes the file `mark`: what an attacker's pickle would do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def pickled(tmp_path) -> bytes:
    """A pickle that makes tmp_path/executed when it is read."""
    return pickle.dumps(Payload(tmp_path / "executed"))
