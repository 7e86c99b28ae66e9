"""Models in MLflow: how one is served, which is the champion, and how one is fetched to this machine."""

from __future__ import annotations

from pathlib import Path


def model_folder(model: str | Path) -> Path:
    """The folder of a model: `model` itself, or the folder into which the MLflow model of that address is fetched."""
    if not str(model).startswith(("models:", "runs:")):
        return Path(model)
    from clipline.registry.fetch import fetch

    return fetch(str(model))
