"""Look up an MLflow model by its address: `models:/clipline@champion`, `models:/clipline/3` or `runs:/<id>/clip`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clipline.errors import UsageError
from clipline.tracking.clip_model import logged_id, logged_models
from clipline.tracking.store import or_none

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/clip"
ADDRESS = re.compile(
    r"models:/(?P<name>[^/:@']+)(@(?P<alias>[^/:@']+)|/(?P<version>[0-9]+))"
    r"|runs:/(?P<run>[A-Za-z0-9_-]+)/(?P<model>[^/:@']+)"
)


def find(client: MlflowClient, text: str) -> LoggedModel:
    """The model with the address `text`. Raises UsageError, which lists the existing names, where there is none."""
    address = ADDRESS.fullmatch(text)
    if not address:
        raise UsageError(f"--model {text}: an MLflow model is named as {FORMS}")
    if address["run"]:
        return _of_run(client, address["run"], address["model"])
    return _of_version(client, _version(client, address["name"], address["alias"], address["version"]))


def _version(client: MlflowClient, name: str, alias: str | None, number: str | None) -> ModelVersion:
    registered = or_none(client.get_registered_model, name)
    if registered is None:
        names = sorted(model.name for model in client.search_registered_models(max_results=20))
        raise UsageError(
            f"no registered model {name} in {client.tracking_uri}; it has {_list(names)}. Fix: name one of "
            "these, or register one with clipline promote"
        )
    if alias:
        number = registered.aliases.get(alias)
        if number is None:
            aliases = sorted(f"{known} (version {version})" for known, version in registered.aliases.items())
            raise UsageError(f"{name} has no alias {alias}; it has {_list(aliases)}")
    versions = {str(version.version): version for version in client.search_model_versions(f"name = '{name}'")}
    if str(number) not in versions:
        raise UsageError(f"{name} has no version {number}; it has {_list(sorted(versions, key=int))}")
    return versions[str(number)]


def _of_version(client: MlflowClient, version: ModelVersion) -> LoggedModel:
    where = f"{version.name}, version {version.version}"
    model = logged_id(version)
    if not model:
        raise UsageError(f"{where}: not a model that clipline's export stage logged")
    logged = or_none(client.get_logged_model, model)
    if logged is None:
        raise UsageError(f"{where}: its model was deleted from the store. Fix: name another version")
    return logged


def _of_run(client: MlflowClient, run: str, name: str) -> LoggedModel:
    models = or_none(logged_models, client, run, None)
    if models is None:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        newest = [known.info.run_id for known in client.search_runs(experiments, max_results=5)]
        raise UsageError(f"no run {run}; the newest in the store: {_list(newest)}")
    ready = {model.name: model for model in reversed(models) if model.status == "READY"}
    if name not in ready:
        raise UsageError(f"the run {run} has no model {name}; it has {_list(sorted(ready))}")
    return ready[name]


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"
