"""Several processes that train one model, as torchrun starts them; one process needs none of this."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from clipline.errors import UsageError
from clipline.train.distributed.gather import rank, world_size

T = TypeVar("T")


def started() -> bool:
    """Whether torchrun has started this process."""
    return "LOCAL_RANK" in os.environ


def launch(module: str, devices: int, device: torch.device) -> NoReturn:
    """Become torchrun, with so many processes of `python -m module` on this machine.

    In the place of this process, so that signals and exit codes need nobody to pass them on. Raises UsageError where
    there are not so many GPUs.
    """
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"train.devices: {devices}, but this machine has {torch.cuda.device_count()} GPUs")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    # Each process would otherwise take all cores, or, as torchrun has it, one.
    threads = str(max(1, torch.get_num_threads() // devices))
    os.execve(sys.executable, [*torchrun, "-m", module], os.environ | {"OMP_NUM_THREADS": threads})


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Be one of the processes while the block runs: gives this one's device."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # The others wait while the first computes features or validates: longer than torch's own ten minutes, perhaps.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process runs the block before the others do: what it writes, they find."""
    if world_size() > 1 and rank():
        dist.barrier()
    yield
    if world_size() > 1 and not rank():
        dist.barrier()


def of_first(value: T) -> T:
    """The first process's value, in all of them: decisions must not differ by a rounding."""
    if world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def all_values(value: T) -> list[T]:
    """Everyone's value, in the order of ranks."""
    if world_size() == 1:
        return [value]
    held: list[Any] = [None] * world_size()
    dist.all_gather_object(held, value)
    return held


def total(own: Tensor) -> Tensor:
    """The sum over processes."""
    if world_size() == 1:
        return own
    found = own.clone()
    dist.all_reduce(found)
    return found
