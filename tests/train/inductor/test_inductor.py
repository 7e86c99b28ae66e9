"""tests/train/test_compile.py with the compiler itself, for the CPU: minutes of g++."""

import shutil

import pytest

from tests.train.test_compile import (
    fit,  # noqa: F401 - a fixture of the test
    test_the_same_is_learned_and_nothing_compiled_after_the_first_epoch,  # noqa: F401
)

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler, which torch.compile needs on the CPU")


@pytest.fixture
def backend() -> str:
    return "inductor"
