"""Where a training stands, on disk, so that one that was killed goes on as if it had not been. Never pickle.

A state is one safetensors file: tensors by name, and everything else as JSON in its header.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clipline.utils.files import atomic
from clipline.utils.progress import note

KEPT = 2


@dataclass(frozen=True)
class State:
    """tensors: by name, on the CPU once read. facts: what JSON holds."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class CheckpointManager:
    """Keeps the last two states of one training in `folder`, written in a thread while training goes on.

    Call `poll` often: it raises what went wrong in the thread, and calls back what waited for a durable state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pool = ThreadPoolExecutor(1, "state")
        self._writing: Future[None] | None = None
        self._then: Callable[[], None] | None = None

    def save(self, step: int, state: State, then: Callable[[], None]) -> None:
        """Write `state` behind training's back; `then` is called by `poll` once it is durable.

        Waits for the state before it. Raises OSError where that could not be written.
        """
        self.poll(wait=True)
        # A copy: training changes these very tensors in its next step.
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.tensors.items()}
        self._then = then
        self._writing = self._pool.submit(self._write, step, tensors, json.dumps(state.facts))

    def poll(self, *, wait: bool = False) -> None:
        """Call back if the last state is durable by now; `wait` until it is. Raises OSError where it cannot be."""
        if self._writing and (wait or self._writing.done()):
            writing, then, self._writing, self._then = self._writing, self._then, None, None
            writing.result()
            then()

    def newest(self) -> State | None:
        """The newest state that is whole, or None."""
        for path in reversed(self._files()):
            try:
                return _read(path)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                note(f"{path}: damaged ({error}); going on from the state before it")
        return None

    def clear(self) -> None:
        """Training is done: no state is needed any more."""
        self.poll(wait=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, step: int, tensors: dict[str, Tensor], facts: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(self.folder / f"state-{step:012d}.safetensors") as file:
            file.write(save(tensors, {"facts": facts, "sha256": _hash(tensors, facts)}))
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.safetensors"))


def _read(path: Path) -> State:
    """Raises what the libraries raise, and ValueError where it is not what was written."""
    with safe_open(path, "pt") as file:
        said, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # A byte changed in a weight would else be a training that looks well and is not the one that was begun.
    if said["sha256"] != _hash(tensors, said["facts"]):
        raise ValueError("changed since it was written: its checksum differs")
    return State(tensors, json.loads(said["facts"]))


def _hash(tensors: dict[str, Tensor], facts: str) -> str:
    """SHA-256 of names, kinds, shapes and bytes."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def random_state() -> dict[str, Tensor]:
    """The states of torch's own random number generators: the CPU's, and that of this process's CUDA device."""
    # Where CUDA is not in use, asking for its state would start it.
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
    return {"cpu": torch.get_rng_state()} | cuda


def set_random_state(states: dict[str, Tensor]) -> None:
    """Go on from `random_state`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
