"""One repository in which everything ran, for all that begins with such a one."""

from collections.abc import Callable

import pytest

from tests.pipeline.conftest import Repository, make_repository


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Repository:
    """The project after its first `dvc repro`, committed with dvc.lock."""
    repo = make_repository(tmp_path_factory.mktemp("published") / "clipline")
    repo.run("dvc", "repro")
    repo.run("git", "add", "-A")
    repo.run("git", "commit", "-qm", "trained")
    return repo


@pytest.fixture
def clone(published, tmp_path) -> Callable[[], Repository]:
    """clone() -> a git clone of `published`, with an empty cache and no store."""

    def make() -> Repository:
        folder = tmp_path / "colleague" / "clipline"
        published.run("git", "clone", "-q", str(published.folder), str(folder))
        other = Repository(folder)
        other.env.update({name: value for name, value in published.env.items() if name.startswith("AWS_")})
        for setting in ("user.email", "user.name"):
            other.run("git", "config", setting, "colleague@example.org")
        assert not (folder / ".dvc/cache").exists() and not (folder / "models/checkpoint").exists()
        return other

    return make
