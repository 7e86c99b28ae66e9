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
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from clipline.embed.item import Failure, Item, Ledger
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
# Items that are prepared ahead, some 100 bytes each, and so the most of a round.
MAX_READY = 1_000_000
# Blocks of a round at least, except for the last one.
MIN_BLOCKS = 64
# Unchanged files that may wait for a block to fill up, before they show as progress.
MAX_SKIPPED = 10_000


class Looked(NamedTuple):
    """An item whose size and date were compared with its row. sha256: the hash in the row, None without a row."""

    item: Item | Failure
    unchanged: bool = False
    sha256: str | None = None


@dataclass
class RayEngine:
    """As `Pipeline`, on a cluster. clock: gets the workers' seconds. running_on: in words, known after `run`.

    batch_size: None means the usual one for the workers' provider.
    """

    model: OnnxModel
    ledger: Ledger
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
        looked = map_ordered(self._look, items, threads=threads, ahead=2 * threads)
        for first in looked:
            if not first.unchanged:
                break
            self.ledger.skip(first.item.path)
        else:
            return  # nothing is new, so no cluster is needed
        with self.cluster.connected() as shape:
            self.clock.threads.update(
                read=shape.workers * shape.threads, decode=shape.workers * shape.threads, model=shape.workers
            )
            yield from self._run(first, looked, shape)

    def _run(self, first: Looked, looked: Iterator[Looked], shape: Shape) -> Iterator[list[Result]]:
        batch_size = self.batch_size or USUAL_BATCH[shape.provider]
        job = Job(
            self.model.bundle.folder.absolute(),
            self.model.model_id,
            self.model.variant,
            shape.provider,
            shape.threads,
            batch_size,
        )
        rows, works = BATCHES * batch_size, []
        with closing(Prefetcher(_prepare(first, looked, rows), max(1, MAX_READY // rows))) as prepared:
            for work, skipped in prepared:
                for path in skipped:
                    self.ledger.skip(path)
                works.append(work)
                if len(works) >= MIN_BLOCKS and not len(prepared):
                    yield from self._round(works, job, shape)
                    works = []
        if works:
            yield from self._round(works, job, shape)

    def _look(self, item: Item | Failure) -> Looked:
        if isinstance(item, Failure):
            return Looked(item)
        try:
            if self.ledger.is_unchanged(item.path, item.stat()):
                return Looked(item, unchanged=True)
        except OSError as error:
            return Looked(Failure(item.path, "read", error.strerror or str(error)))
        return Looked(absolute(item), sha256=self.ledger.sha256(item.path))

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


def _prepare(first: Looked, looked: Iterator[Looked], rows: int) -> Iterator[tuple[bytes, list[str]]]:
    """Blocks of `rows` items, each a pickled Work of a tenth of their memory, with the unchanged paths among them."""
    with closing(looked):
        work, skipped = Work([first.item], {first.sha256} - {None}), []
        for item, unchanged, sha256 in looked:
            if unchanged:
                skipped.append(item.path)
            else:
                work.items.append(item)
                work.hashes.update([sha256] if sha256 else [])
            if len(work.items) == rows or len(skipped) == MAX_SKIPPED:
                yield pickle.dumps(work), skipped
                work, skipped = Work([], set()), []
    if work.items or skipped:
        yield pickle.dumps(work), skipped


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
            "again: it goes on from there"
        ) from error
