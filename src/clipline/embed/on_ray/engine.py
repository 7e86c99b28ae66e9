"""The pipeline past one machine: reading, hashing, decoding and the model in Ray Data workers, writing here.

    items -> (unchanged apart) -> blocks -> Ray Data: the local pipeline of each worker -> rows, in order

Ray Data runs rounds: all blocks that the walk has ready make one dataset, whose workers open the model once.
Meanwhile the walk goes on, so rounds grow until they last long against their start. The blocks of a worker that dies
run again. What is written, and so what a restart finds, is the business of the caller, as with `Pipeline`.

Every node needs clipline with this version, and the model folder and the images under the same paths: on shared
storage; images may be URLs.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from clipline.embed.clock import StageTimer
from clipline.embed.item import Failure, Item, Ledger
from clipline.embed.on_ray.cluster import Cluster, Shape
from clipline.embed.on_ray.worker import Done, Job, Work, Worker, absolute
from clipline.embed.pipeline import Duplicate, Embedded, Result
from clipline.embed.prefetch import Prefetcher
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import USUAL_BATCH, OnnxModel
from clipline.utils import cores
from clipline.utils.threads import map_ordered

if TYPE_CHECKING:
    import ray.data

# Batches in a block: few, as a kill costs the blocks in work; but the worker's threads are idle at its ends.
BATCHES = 4
# Deaths of workers that a block may see: more, and it is the block that kills them.
RETRIES = 10
# Items that the walk may be ahead, some 100 bytes each: what a round has at most.
ROUND = 1_000_000
# Blocks of a round at least, but for the last one.
LEAST = 64


# Some of the walk: a block of items as a pickled Work, which needs a tenth of its memory; or paths whose row is there.
Chunk = bytes | list[str]


@dataclass
class RayEngine:
    """As `Pipeline`, on a cluster. clock: gets the workers' seconds. running_on: in words, known after `run`.

    batch_size: None means the usual one where the workers run.
    """

    model: OnnxModel
    ledger: Ledger
    clock: StageTimer
    batch_size: int | None
    cluster: Cluster
    running_on: str = field(default="Ray, which was not needed", init=False)

    def run(self, items: Iterable[Item | Failure]) -> Iterator[list[Result]]:
        """Blocks of results in the order of `items`.

        Raises UsageError where the cluster is not there, or its nodes see no model or images, and CliplineError where
        it breaks down.
        """
        size = self.batch_size or USUAL_BATCH["cpu"]  # of the walk, which begins before the cluster is known
        rows = size * BATCHES
        works: list[bytes] = []
        shape: Shape | None = None
        with ExitStack() as stack, closing(Prefetcher(self._chunks(items, rows), max(1, ROUND // rows))) as chunks:
            for chunk in chunks:
                if not isinstance(chunk, bytes):
                    self._skip(chunk)
                    continue
                works.append(chunk)
                # Not before there is work: a run that finds nothing new needs no cluster.
                shape = shape or self._connect(stack)
                joined = self._batch(shape) // size
                if not len(chunks) and len(works) >= LEAST * joined:
                    yield from self._round(works, joined, shape)
            if works:
                yield from self._round(works, joined, shape)

    def _connect(self, stack: ExitStack) -> Shape:
        shape = stack.enter_context(self.cluster.connected())
        threads = shape.workers * shape.threads
        self.clock.threads.update(read=threads, decode=threads, model=shape.workers)
        return shape

    def _batch(self, shape: Shape) -> int:
        return self.batch_size or USUAL_BATCH[shape.provider]

    def _skip(self, paths: list[str]) -> None:
        for path in paths:
            self.ledger.skip(path)

    def _chunks(self, items: Iterable[Item | Failure], rows: int) -> Iterator[Chunk]:
        """Chunks of `rows`."""
        threads = 4 * cores.available()  # they wait for the file system
        work, skipped = Work([], set()), []
        with closing(map_ordered(self._look, items, threads=threads, ahead=2 * threads)) as looked:
            for item, unchanged, sha256 in looked:
                if unchanged:
                    skipped.append(item.path)
                else:
                    work.items.append(item)
                if sha256:
                    work.hashes.add(sha256)
                if len(work.items) == rows:
                    yield pickle.dumps(work)
                    work = Work([], set())
                if len(skipped) == rows:
                    yield skipped
                    skipped = []
        yield skipped
        if work.items:
            yield pickle.dumps(work)

    def _look(self, item: Item | Failure) -> tuple[Item | Failure, bool, str | None]:
        """The item, whether it is unchanged, and else the hash that its row has."""
        if isinstance(item, Failure):
            return item, False, None
        try:
            if self.ledger.is_unchanged(item.path, item.stat()):
                return item, True, None
        except OSError as error:
            return Failure(item.path, "read", error.strerror or str(error)), False, None
        return absolute(item), False, self.ledger.sha256(item.path)

    def _round(self, works: list[bytes], joined: int, shape: Shape) -> Iterator[list[Result]]:
        """Takes all `works`, so many of them `joined` in a block."""
        import ray.data

        blocks = [pa.table({"work": [works[start : start + joined]]}) for start in range(0, len(works), joined)]
        works.clear()
        job = Job(
            self.model.bundle.folder.absolute(),
            self.model.model_id,
            self.model.variant,
            shape.provider,
            shape.threads,
            self._batch(shape),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of max_task_retries, for which Ray names no successor
            dataset = ray.data.from_blocks(blocks).map_batches(
                _Embedder,
                fn_constructor_args=(job,),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(shape.workers, len(blocks))),
                num_cpus=shape.threads,
                num_gpus=shape.gpus,
                max_task_retries=RETRIES,
            )
        del blocks  # now in Ray's store
        for done in _rows(dataset):
            yield self._take(done, shape)

    def _take(self, done: Done, shape: Shape) -> list[Result]:
        self.clock.add(done.seconds)
        self.running_on = f"Ray, {shape.workers} worker{'s' * (shape.workers > 1)}: {done.running_on}"
        results = []
        for result in done.results:
            if isinstance(result, Duplicate) and self.ledger.is_current(result.path, result.sha256, result.stat):
                self.ledger.skip(result.path)
            else:
                results.append(self._first(result))
        return results

    def _first(self, result: Result) -> Result:
        """The result, or a Duplicate where equal bytes came before, maybe from another worker."""
        if isinstance(result, Embedded) and self.ledger.is_duplicate(result.image.sha256):
            return Duplicate(result.image.path, result.image.stat, result.image.sha256)
        if isinstance(result, Failure) and result.sha256:
            self.ledger.is_duplicate(result.sha256)
        return result


class _Embedder(Worker):
    """A Worker as Ray Data calls it: tables with a block, pickled in pieces. An error is a result: Ray garbles it."""

    def __call__(self, table: pa.Table) -> pa.Table:
        works = [pickle.loads(work) for work in table["work"][0].as_py()]
        items = [item for work in works for item in work.items]
        try:
            done = self.embed(Work(items, set().union(*(work.hashes for work in works))))
        except CliplineError as error:
            done = error
        return pa.table({"done": [pickle.dumps(done)]})


def _rows(dataset: ray.data.Dataset) -> Iterator[Done]:
    """What became of the blocks, in order, as they are done. Raises CliplineError."""
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
            raise  # a fault of ours, to be seen whole
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise CliplineError(
            f"Ray gave up on a block of images: {type(error).__name__}: {first}. What was written is whole. Fix: see "
            "whether nodes or their workers die, for lack of memory say (fewer --threads, smaller --batch-size); run "
            "again: it goes on from there"
        ) from error
