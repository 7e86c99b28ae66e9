"""`clipline promote`: make a run's exported model the champion among the registered versions, if it is better."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipline.errors import CliplineError, UsageError
from clipline.tracking.clip_model import logged_id, logged_models
from clipline.tracking.compare import find_runs
from clipline.tracking.environment import use_tracking_uri
from clipline.tracking.location import existing_store
from clipline.tracking.receipt import Receipt
from clipline.tracking.store import Store, opened, or_none, reading

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
EXPORT_AGAIN = "Fix: dvc repro --force --single-item export"
NEEDED = ("onnx_i2t_r1", "onnx_t2i_r1", "test_fingerprint")
# The number of digits of the ids that MLflow makes.
FULL_ID = 32
# The run's tags that the version gets too, so that it tells its origin even when the run is gone.
RUN_TAGS = ("git_revision", "git_dirty")


class Refusal(CliplineError):
    """The model does not become the champion; the message says why. Nothing was changed."""


@dataclass(frozen=True)
class Exported:
    """An exported model in MLflow.

    label: `run 1a2b…` or `version 3`. mlflow_id: MLflow's id of it. tags: those of `tracking.clip_model.model_tags`, of
    the export stage and of its run, with `run_id`.
    """

    label: str
    mlflow_id: str
    tags: Mapping[str, str]

    @property
    def recalls(self) -> tuple[float, float]:
        """R@1 of the exported graphs on the test split, in percent: image to text, text to image."""
        return float(self.tags["onnx_i2t_r1"]), float(self.tags["onnx_t2i_r1"])

    @property
    def mean(self) -> float:
        """The mean R@1 of both directions."""
        return sum(self.recalls) / 2

    @property
    def data(self) -> str:
        """The dataset and test split that it was measured on, for messages."""
        return f"{self.tags.get('dataset', '?')} (test split {self.tags['test_fingerprint']})"

    def __str__(self) -> str:
        i2t, t2i = self.recalls
        return f"{self.label}, mean R@1 {self.mean:.2f} (i2t {i2t:.2f}, t2i {t2i:.2f})"


def promote(
    run_id: str | None, *, receipt: Path, experiment: str, name: str, margin: float, dry_run: bool = False
) -> str:
    """Make a run's exported model the champion of the registered model `name`, if it is better.

    run_id: an id or its first characters; None takes that of `receipt`. The model must have passed its gates; where
    there is a champion, it must be measured on the same test images and captions, and its mean R@1 must be at least
    `margin` points higher. Returns a line that says what was done. Raises Refusal where one of these fails; nothing is
    changed then, nor with `dry_run`.

    The store's lock is held meanwhile (a dry run only reads), so that of two promotions the later one is compared with
    the earlier one's champion. The lock is a file: promotions from two machines to one server at once are not kept
    apart, because MLflow's alias has no compare-and-set.
    """
    if not re.fullmatch(r"[\w. -]+", name):
        raise UsageError(f"--name {name!r}: should be of letters, digits, spaces and _ . -")
    if not margin >= 0:
        raise UsageError(f"--margin {margin:g}: should be 0 or more points")
    existing_store()
    run_id = Receipt.read(receipt).run_id if run_id is None else _full_id(experiment, run_id)
    with reading(experiment) if dry_run else opened(experiment) as store:
        candidate = _candidate(store, run_id)
        champion = _champion(store.client, name)
        if champion and champion.mlflow_id == candidate.mlflow_id:
            return f"{name}: the champion already: {champion}"
        decide(candidate, champion, margin)
        old = f"; before it: {champion}" if champion else "; the first one"
        if dry_run:
            return f"{name}: would become the champion: {candidate}{old}. Nothing is changed (--dry-run)"
        with use_tracking_uri(store.uri):
            version = _register(store.client, name, candidate)
        store.client.set_registered_model_alias(name, ALIAS, version.version)
    return f"{name}: the champion now: version {version.version}, from {candidate}{old}"


def decide(candidate: Exported, champion: Exported | None, margin: float) -> None:
    """Raise Refusal where `candidate` should not replace `champion`; margin: points of mean R@1."""
    if champion is None:
        return
    if candidate.tags["test_fingerprint"] != champion.tags["test_fingerprint"]:
        raise Refusal(
            f"not promoted: {candidate.label} is measured on {candidate.data}, the champion, {champion.label}, on "
            f"{champion.data}: their R@1 cannot be compared. Fix: promote it under another --name"
        )
    gain = candidate.mean - champion.mean
    if not gain >= margin - 1e-9:
        raise Refusal(
            f"not promoted: {candidate}, is {gain:+.2f} points from the champion: {champion}. "
            f"The margin is {margin:g} points"
        )


def _full_id(experiment: str, run_id: str) -> str:
    """The run id that begins with `run_id`, among those of the experiment; a full id may be of another one."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", run_id):
        raise UsageError(f"{run_id!r} is not the id of an MLflow run")
    return run_id if len(run_id) >= FULL_ID else find_runs(experiment, [run_id])[0].id


def _candidate(store: Store, run_id: str) -> Exported:
    """The run's exported model. Raises UsageError without such a run, and Refusal where its gates are not passed."""
    run = store.find(run_id)
    if run is None:
        raise UsageError(f"no run {run_id} in {store.uri}. Fix: name one that `clipline runs` shows")
    label, gates = f"run {run.info.run_id}", run.data.tags.get("gates")
    if gates not in (None, "passed"):
        raise Refusal(f"not promoted: {label} did not pass its gates: {gates}")
    ready = [model for model in logged_models(store.client, run.info.run_id) if model.status == "READY"]
    if gates is None or not ready:
        raise Refusal(f"not promoted: {label} has no exported model in {store.uri}. {EXPORT_AGAIN}")
    tags = {tag: run.data.tags[tag] for tag in RUN_TAGS if tag in run.data.tags}
    tags = {**ready[0].tags, **tags, "run_id": run.info.run_id}
    return _checked(Exported(label, ready[0].model_id, tags), EXPORT_AGAIN)


def _champion(client: MlflowClient, name: str) -> Exported | None:
    registered = or_none(client.get_registered_model, name)
    number = registered and registered.aliases.get(ALIAS)
    if not number:
        return None
    version = client.get_model_version(name, number)
    fix = f"Fix: promote under another --name, or take the alias {ALIAS} away from it"
    return _checked(Exported(f"version {number}", logged_id(version) or "", version.tags), fix)


def _checked(model: Exported, fix: str) -> Exported:
    """`model` itself. Raises Refusal where its tags lack what is compared: another program may have registered it."""
    missing = [tag for tag in NEEDED if tag not in model.tags]
    if missing:
        raise Refusal(f"not promoted: {model.label} does not say how good it is: no tag {', '.join(missing)}. {fix}")
    return model


def _register(client: MlflowClient, name: str, model: Exported) -> ModelVersion:
    """The registered version of `model`: the existing one, else a new one."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}' AND run_id = '{model.tags['run_id']}'")
    for version in versions:
        if logged_id(version) == model.mlflow_id:
            return version
    version = client.create_model_version(
        name,
        f"models:/{model.mlflow_id}",
        run_id=model.tags["run_id"],
        tags={key: value for key, value in model.tags.items() if not key.startswith("mlflow.")},
        model_id=model.mlflow_id,
    )
    # As `mlflow.register_model` does: by this tag MLflow's pages of the run and of its model show the version.
    others = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    versions = json.dumps([*others, {"name": name, "version": version.version}])
    client.set_logged_model_tags(model.mlflow_id, {MLFLOW_MODEL_VERSIONS: versions})
    return version
