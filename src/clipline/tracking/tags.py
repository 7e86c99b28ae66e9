"""Tags of every run, to filter and compare by."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

from clipline.utils.checksums import file_hash
from clipline.utils.revision import git_revision

# The files that decide a run's result. With dvc.lock, which the pipeline rewrites, every run would be dirty.
SOURCES = ["src", "stages", "configs", "params.yaml", "dvc.yaml", "pyproject.toml", "requirements.lock"]


def base_tags(*, recipe: str, dataset: str, fingerprint: str, device: str) -> dict[str, str]:
    """Tags of a training run: names, dataset fingerprint, device, git revision, DVC stage and experiment.

    `git_dirty` says whether code or settings differ from `git_revision`; outside a git repository both are `unknown`.
    MLflow's UI shows the tags whose names start with `mlflow.` in columns of their own.
    """
    # The current folder, not DVC_ROOT: `dvc exp run --temp` checks out its revision here.
    revision = git_revision(Path.cwd())
    tags = {
        "recipe": recipe,
        "dataset": dataset,
        "dataset_fingerprint": fingerprint,
        "device": device,
        "git_revision": revision or "unknown",
        "git_dirty": str(_is_dirty()).lower() if revision else "unknown",
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }
    if revision:
        tags["mlflow.source.git.commit"] = revision
    for tag, variable in {"dvc_stage": "DVC_STAGE", "dvc_exp": "DVC_EXP_NAME"}.items():
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags


def lock_tag() -> dict[str, str]:
    """The tag `dvc_lock`: the SHA-256 of dvc.lock, which lists every input and output of the finished stages."""
    path = Path("dvc.lock")
    return {"dvc_lock": file_hash(path)} if path.is_file() else {}


def _is_dirty() -> bool:
    command = ["git", "status", "--porcelain", "--", *SOURCES]
    return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return str(os.getuid())
