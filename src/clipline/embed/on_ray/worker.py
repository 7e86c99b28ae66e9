"""What runs in a Ray worker: the local pipeline on blocks of items, with a model that is opened once."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from clipline.embed.item import Failure, FileItem, Item, NullLedger
from clipline.embed.pipeline import Embedded, Pipeline, Result
from clipline.embed.stage_timer import StageTimer
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel

NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Job:
    """The same for all workers. model: its folder, absolute. model_id, variant: those of the model expected there."""

    model: Path
    model_id: str
    variant: str
    provider: Literal["cpu", "cuda"]
    threads: int
    batch_size: int

    def open(self) -> OnnxModel:
        """Open the model on this worker. Raises UsageError where it is not there, or is another one."""
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
    """A block of items in order. hashes: those in the rows that their paths have."""

    items: Sequence[Item | Failure]
    hashes: set[str | None]


class Done(NamedTuple):
    """The results of a block. seconds: of thread time, by stage. running_on: see `OnnxModel`."""

    results: list[Result]
    seconds: dict[str, float]
    running_on: str


class _BlockLedger(NullLedger):
    """The ledger of one block. A file whose own row has its bytes is a duplicate here; the driver's ledger decides."""

    def __init__(self, hashes: set[str | None]) -> None:
        self._hashes = hashes

    def is_duplicate(self, sha256: str) -> bool:
        known = sha256 in self._hashes
        self._hashes.add(sha256)
        return known


class Worker:
    """What Ray Data runs in each actor: block after block, with a model that the first block opens.

    Called with a table of one pickled Work, it answers with one pickled Done. A CliplineError is an answer too: raised
    here, it would reach the driver as text inside an error of Ray's.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: OnnxModel | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        try:
            done = self.embed(pickle.loads(table["work"][0].as_py()))
        except CliplineError as error:
            done = error
        return pa.table({"done": [pickle.dumps(done)]})

    def embed(self, work: Work) -> Done:
        """Raises UsageError where this node does not see the model or images, CliplineError where the model fails."""
        if self._model is None:
            _check_visible(work.items)
            self._model = self._job.open()
        ledger, clock = _BlockLedger(work.hashes), StageTimer({})
        pipeline = Pipeline(self._model, ledger, clock, self._job.batch_size, self._job.threads)
        results = [_without_pixels(result) for block in pipeline.run(work.items) for result in block]
        return Done(results, clock.seconds, self._model.running_on)


def absolute(item: Item) -> Item:
    """The same item for another process, which may have another working folder."""
    if isinstance(item, FileItem):
        return replace(item, file=str(Path(item.file).absolute()))
    return replace(item, **{name: path.absolute() for name, path in _paths(item).items()})


def _paths(item: Item) -> dict[str, Path]:
    """The fields of an item that hold files on this machine."""
    if isinstance(item, FileItem):
        return {"file": Path(item.file)}
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {name: value for name, value in values.items() if isinstance(value, Path)}


def _check_visible(items: Sequence[Item | Failure]) -> None:
    """Raise UsageError where this node lacks the first item's folder: else each image would be listed as an error."""
    paths = (path for item in items if not isinstance(item, Failure) for path in _paths(item).values())
    if (first := next(paths, None)) and not first.parent.is_dir():
        raise UsageError(
            f"Ray node {platform.node()}: {first.parent}: no such folder. Fix: put the images on storage that all "
            "nodes share, under one path, or give a URL"
        )


def _without_pixels(result: Result) -> Result:
    """Drop pixels before sending results: the driver does not need them, and they are most of the bytes."""
    return replace(result, image=replace(result.image, pixels=NO_PIXELS)) if isinstance(result, Embedded) else result
