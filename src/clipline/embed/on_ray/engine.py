"""The pipeline on a Ray cluster: workers read, hash, decode and run the model; this process writes.

    items -> (unchanged files apart) -> blocks -> Ray Data: the local pipeline in each worker -> results, in order

A dataset of Ray Data cannot grow, so blocks are processed in rounds: all that are ready become one dataset, whose
workers open the model once. Meanwhile a thread prepares more, so rounds grow until their start takes little of them.
The blocks of a worker that dies are processed again. What is written, and what a restart finds, is the same as with
the local pipeline.

Every node needs this version of clipline, and sees the model and the images under the same paths: on shared storage;
images may be URLs.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

import pyarrow as pa

from clipline.embed.item import Failure, Item
from clipline.embed.ledger import FolderLedger
from clipline.embed.on_ray.cluster import Cluster, Shape
from clipline.embed.on_ray.worker import Done, Job, Work, Worker, absolute
from clipline.embed.pipeline import Duplicate, Embedded, Result
from clipline.embed.prefetch import Prefetcher
from clipline.embed.stage_timer import StageTimer
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import USUAL_BATCH, OnnxModel
from clipline.utils import cores
from clipline.utils.threads import map_ordered

if TYPE_CHECKING:
    import ray.data

# Batches in a block. More repeat more work after a worker's death; fewer leave its threads idle more often.
BATCHES = 4
# How often a block is tried again after its worker died. A block that kills each worker must end the run.
RETRIES = 10
# Blocks of a round at least, except for the last one.
MIN_BLOCKS = 64


@dataclass
class RayEngine:
    """As `Pipeline`, on a cluster. clock: gets the workers' seconds. running_on: in words, known after `run`.

    batch_size: None means the usual one for the workers' provider.
    """

    model: OnnxModel
    ledger: FolderLedger
    clock: StageTimer
    batch_size: int | None
    cluster: Cluster
    running_on: str = field(default="Ray, which was not needed", init=False)

    def run(self, items: Iterable[Item | Failure]) -> Iterator[list[Result]]:
        """Blocks of results in the order of `items`.

        Raises UsageError where the cluster is not there, or its nodes do not see the model or the images, and
        CliplineError where it breaks down.
        """
        threads = 4 * cores.available()  # they wait for the file system
        new = filter(None, map_ordered(self._look, items, threads=threads, ahead=2 * threads))
        if not (first := next(new, None)):
            return  # no cluster is needed
        with self.cluster.connected() as shape:
            threads = shape.workers * shape.threads
            self.clock.threads.update(read=threads, decode=threads, model=shape.workers)
            yield from self._rounds(chain([first], new), shape)

    def _look(self, item: Item | Failure) -> tuple[Item | Failure, str | None] | None:
        """The item with the hash in its row, if it has one; None if that row is up to date by size and date."""
        if isinstance(item, Failure):
            return item, None
        try:
            if not self.ledger.is_unchanged(item.path, item.stat()):
                return absolute(item), self.ledger.sha256(item.path)
        except OSError as error:
            return Failure(item.path, "read", error.strerror or str(error)), None
        self.ledger.skip(item.path)
        return None

    def _rounds(self, new: Iterator[tuple[Item | Failure, str | None]], shape: Shape) -> Iterator[list[Result]]:
        job = Job(
            self.model.bundle.folder.absolute(),
            self.model.model_id,
            self.model.variant,
            shape.provider,
            shape.threads,
            self.batch_size or USUAL_BATCH[shape.provider],
        )
        works = []
        with closing(Prefetcher(_pack(new, BATCHES * job.batch_size))) as ready:
            for work in ready:
                works.append(work)
                if len(works) >= MIN_BLOCKS and not len(ready):
                    yield from self._round(works, job, shape)
                    works = []
        if works:
            yield from self._round(works, job, shape)

    def _round(self, works: list[bytes], job: Job, shape: Shape) -> Iterator[list[Result]]:
        import ray.data

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of max_task_retries, for which Ray names no successor
            dataset = ray.data.from_blocks([pa.table({"work": [work]}) for work in works]).map_batches(
                Worker,
                fn_constructor_args=(job,),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(shape.workers, len(works))),
                num_cpus=shape.threads,
                num_gpus=shape.gpus,
                max_task_retries=RETRIES,
            )
        for done in _done(dataset):
            self.clock.add(done.seconds)
            self.running_on = f"Ray, {shape.workers} worker{'s' * (shape.workers > 1)}: {done.running_on}"
            yield [result for result in map(self._settle, done.results) if result]

    def _settle(self, result: Result) -> Result | None:
        """A worker's result beside those of all others: None for a row that is up to date."""
        if isinstance(result, Duplicate) and self.ledger.is_current(result.path, result.sha256, result.stat):
            self.ledger.skip(result.path)
            return None
        if isinstance(result, Embedded) and self.ledger.is_duplicate(result.image.sha256):
            return Duplicate(result.image.path, result.image.stat, result.image.sha256)
        return result


def _pack(new: Iterator[tuple[Item | Failure, str | None]], rows: int) -> Iterator[bytes]:
    """Blocks of `rows` items, each a pickled Work, which takes a tenth of the memory: some 100 bytes an item."""
    while block := list(islice(new, rows)):
        items, hashes = zip(*block, strict=True)
        yield pickle.dumps(Work(items, set(hashes)))


def _done(dataset: ray.data.Dataset) -> Iterator[Done]:
    """What the workers made of the blocks, in order, as they end. Raises CliplineError."""
    from ray.exceptions import RayError, RayTaskError

    try:
        for table in dataset.iter_batches(batch_size=1, batch_format="pyarrow"):
            done = pickle.loads(table["done"][0].as_py())
            if isinstance(done, CliplineError):
                raise done
            yield done
    except RayError as error:
        if missing := re.search("ModuleNotFoundError: (No module named .*)", str(error)):
            raise UsageError(
                f"a Ray node lacks what clipline needs: {missing[1]}. Fix: pip install 'clipline[cpu,ray]' (or gpu) "
                "on all nodes"
            ) from error
        if isinstance(error, RayTaskError):
            raise  # a bug in clipline: its traceback is needed
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise CliplineError(
            f"Ray gave up on a block of images: {type(error).__name__}: {first}. What was written is whole. Fix: see "
            "whether nodes or their workers die, for lack of memory say (fewer --threads, smaller --batch-size); run "
            "again: it continues from there"
        ) from error
