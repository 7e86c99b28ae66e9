"""Several processes that train one model, started by torchrun. Every function also works in a single process."""

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


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "LOCAL_RANK" in os.environ


def launch(module: str, devices: int, device: torch.device) -> NoReturn:
    """Exec torchrun with --nproc-per-node=devices for `python -m module` on this machine.

    It replaces this process, so that signals and exit codes need no forwarding. Raises UsageError if the machine has
    fewer GPUs than `devices`.
    """
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"train.devices: {devices}, but this machine has {torch.cuda.device_count()} GPUs")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    # By default each process would use all cores, and torchrun would give each only one.
    threads = str(max(1, torch.get_num_threads() // devices))
    os.execve(sys.executable, [*torchrun, "-m", module], os.environ | {"OMP_NUM_THREADS": threads})


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the process group; yields this rank's device."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # The other ranks wait while rank 0 computes features or validates, which may exceed torch's default of ten minutes.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def rank0_first() -> Iterator[None]:
    """Rank 0 runs the block before the other ranks do, so that they find the files that it writes."""
    if rank():
        dist.barrier()
    yield
    if world_size() > 1 and not rank():
        dist.barrier()


def broadcast_rank0(value: T) -> T:
    """Rank 0's value, on all ranks: decisions must not differ by rounding."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def all_gather_object(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total
