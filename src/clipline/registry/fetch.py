"""Fetch the bundle of a model in MLflow into a folder on this machine."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clipline.config.base import repository_root
from clipline.errors import CliplineError, UsageError
from clipline.registry.find import find
from clipline.runtime.bundle import Bundle
from clipline.tracking.environment import long_timeouts
from clipline.tracking.messages import with_fix
from clipline.tracking.store import reading
from clipline.utils.files import user_cache
from clipline.utils.remedies import why

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

PARTIAL = ".partial."


def fetch(model: str) -> Path:
    """The folder of the MLflow model with the address `model`, such as `models:/clipline@champion`.

    A model is fetched once, into `cache()`, because what MLflow stores under one id never changes. Its files are
    compared with the hashes in manifest.json. Raises UsageError where there is no such model, and CliplineError where
    it cannot be fetched or kept, or is damaged.
    """
    with reading() as store:
        logged, uri = find(store.client, model), store.uri
    if not re.fullmatch(r"[\w-]+", logged.model_id):
        raise CliplineError(f"{model}: the store calls it {logged.model_id!r}, which is not an MLflow id")
    folder = cache() / logged.model_id
    if not folder.is_dir():
        try:
            with long_timeouts():
                _download(uri, logged, folder)
        except CliplineError as error:
            raise type(error)(f"{model}: {error}") from error
        except OSError as error:
            raise CliplineError(f"{model}: cannot be kept in {folder.parent}: {why(error)}") from error
    return folder


def cache() -> Path:
    """The folder of fetched models: .cache of the repository, or the user's cache where there is no repository."""
    root = repository_root()
    return (root / ".cache" if (root / "dvc.yaml").is_file() else user_cache()) / "models"


def verify(folder: Path) -> None:
    """Raises CliplineError where a file in `folder` is not the one that manifest.json names, by its size or hash."""
    try:
        bundle = Bundle(folder)
        bundle.read_tokenizer()
        for graph in [*bundle.manifest.image.values(), *bundle.manifest.text.values()]:
            bundle.graph_path(graph)
    except UsageError as error:
        what = str(error).replace(f"{folder}{os.sep}", "").partition(". Fix: ")[0]
        raise CliplineError(
            f"damaged in the store, or changed there: {what}. Fix: dvc repro --force --single-item export, and "
            "promote it again"
        ) from error


def _download(uri: str, logged: LoggedModel, folder: Path) -> None:
    """Fetch the bundle, verify it, and rename it to `folder`. Another process may do the same. Raises OSError."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=PARTIAL) as scratch:
        try:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{logged.artifact_location}/artifacts", dst_path=scratch, tracking_uri=uri
            )
        except (MlflowException, OSError) as error:  # the network's errors are OSErrors too
            raise CliplineError(f"cannot be fetched from {uri}: {with_fix(error)}") from error
        bundles = [manifest.parent for manifest in Path(scratch).glob("**/manifest.json")]
        if len(bundles) != 1:
            raise UsageError("not a model that clipline's export stage logged")
        verify(bundles[0])
        try:
            bundles[0].rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(bundles[0])
