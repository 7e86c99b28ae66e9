"""Models in MLflow: what serves one, which is the champion, and how one gets to this machine."""

from __future__ import annotations

from pathlib import Path


def model_folder(model: str | Path) -> Path:
    """The folder of a model: `model` itself, or where MLflow's model of that name lies once it is fetched."""
    if not str(model).startswith(("models:", "runs:")):
        return Path(model)
    from clipline.registry.fetch import fetch

    return fetch(str(model))
