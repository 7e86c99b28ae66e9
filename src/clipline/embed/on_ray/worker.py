"""What a Ray worker does: blocks of items through the local pipeline, with a model that is opened once."""

from __future__ import annotations

import platform
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from clipline.embed.clock import StageTimer
from clipline.embed.item import Failure, Item, NullLedger
from clipline.embed.pipeline import Embedded, Pipeline, Result
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel

NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Job:
    """What every worker is told. model: an absolute path. model_id, variant: what must be found there."""

    model: Path
    model_id: str
    variant: str
    provider: Literal["cpu", "cuda"]
    threads: int
    batch_size: int

    def open(self) -> OnnxModel:
        """The model, on this worker. Raises UsageError where it is not there, or is another."""
        fix = "Fix: put the model folder on storage that all nodes share, under one path"
        try:
            model = OnnxModel(
                self.model,
                provider=self.provider,
                precision=self.variant.partition("-")[0],
                threads=self.threads,
                bulk=True,
            )
        except UsageError as error:
            raise UsageError(f"Ray node {platform.node()}: {error}. {fix}") from error
        if (model.model_id, model.variant) != (self.model_id, self.variant):
            raise UsageError(f"Ray node {platform.node()}: {self.model}: holds another model than here. {fix}")
        return model


class Work(NamedTuple):
    """A block of items in order. hashes: of the rows that their paths have."""

    items: list[Item | Failure]
    hashes: set[str]


class Done(NamedTuple):
    """What became of a block. seconds: of thread time, by stage."""

    results: list[Result]
    seconds: dict[str, float]
    running_on: str


class _BlockLedger(NullLedger):
    """The ledger of one block. A file whose own row has its bytes is a duplicate here; the driver's ledger decides."""

    def __init__(self, hashes: set[str]) -> None:
        self._hashes = hashes

    def is_duplicate(self, sha256: str) -> bool:
        known = sha256 in self._hashes
        self._hashes.add(sha256)
        return known


class Worker:
    """Embeds block after block. The model is opened for the first one, so that an error is the answer to it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: OnnxModel | None = None

    def embed(self, work: Work) -> Done:
        """Raises UsageError where this node cannot see model or images, CliplineError where the model fails."""
        if self._model is None:
            _check_visible(work.items)
            self._model = self._job.open()
        ledger, clock = _BlockLedger(work.hashes), StageTimer({})
        pipeline = Pipeline(self._model, ledger, clock, self._job.batch_size, self._job.threads)
        results = [_light(each) for block in pipeline.run(work.items) for each in block]
        return Done(results, clock.seconds, self._model.running_on)


def absolute(item: Item) -> Item:
    """The same item for another process, which may have another working folder."""
    places = {name: place.absolute() for name, place in _places(item).items() if not place.is_absolute()}
    return replace(item, **places) if places else item


def _places(item: Item) -> dict[str, Path]:
    values = {each.name: getattr(item, each.name) for each in fields(item)}
    return {name: value for name, value in values.items() if isinstance(value, Path)}


def _check_visible(items: list[Item | Failure]) -> None:
    """The driver saw the files; if their folder is not even there, all of them would be listed as errors."""
    for item in items:
        for place in [] if isinstance(item, Failure) else _places(item).values():
            if not place.parent.is_dir():
                raise UsageError(
                    f"Ray node {platform.node()}: {place.parent}: no such folder. Fix: put the images on storage that "
                    "all nodes share, under one path, or give a URL"
                )
            return


def _light(result: Result) -> Result:
    """Pixels have done their duty, and would be most of what is sent."""
    return replace(result, image=replace(result.image, pixels=NO_PIXELS)) if isinstance(result, Embedded) else result
