"""The state of a training on disk, from which a killed training resumes exactly. Never pickle.

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
    """tensors: by name, on the CPU once read. metadata: values that JSON can hold."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


class CheckpointManager:
    """Keeps the last two states of one training in `folder`; a thread writes them while training goes on.

    Call `poll` often: it raises the thread's errors, and makes the callbacks of states that are on disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pool = ThreadPoolExecutor(1, "state")
        self._writing: Future[None] | None = None
        self._callback: Callable[[], None] | None = None

    def save(self, step: int, state: State, callback: Callable[[], None]) -> None:
        """Start to write `state`; `poll` calls `callback` once it is durable.

        Waits for the previous state first. Raises OSError if that could not be written.
        """
        self.poll(wait=True)
        # Copies: the next step changes these tensors.
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.tensors.items()}
        self._callback = callback
        self._writing = self._pool.submit(self._write, step, tensors, json.dumps(state.metadata))

    def poll(self, *, wait: bool = False) -> None:
        """Make the callback if the last state is durable; `wait` until it is. Raises OSError if it was not written."""
        if self._writing and (wait or self._writing.done()):
            writing, callback, self._writing, self._callback = self._writing, self._callback, None, None
            writing.result()
            callback()

    def newest(self) -> State | None:
        """The newest undamaged state, or None."""
        for path in reversed(self._files()):
            try:
                return _read(path)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                note(f"{path}: damaged ({error}); going on from the state before it")
        return None

    def clear(self) -> None:
        """Delete all states, once training is finished."""
        self.poll(wait=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, step: int, tensors: dict[str, Tensor], metadata: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(self.folder / f"state-{step:012d}.safetensors") as file:
            file.write(save(tensors, {"facts": metadata, "sha256": _hash(tensors, metadata)}))
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.safetensors"))


def _read(path: Path) -> State:
    """Raises the libraries' errors, and ValueError if the content is not what was written."""
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # Otherwise one changed byte in a weight would give a training that looks well and is another one.
    if header["sha256"] != _hash(tensors, header["facts"]):
        raise ValueError("changed since it was written: its checksum differs")
    return State(tensors, json.loads(header["facts"]))


def _hash(tensors: dict[str, Tensor], metadata: str) -> str:
    """SHA-256 of the metadata and of the tensors' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def random_state() -> dict[str, Tensor]:
    """The states of torch's global random number generators: the CPU's, and that of this process's CUDA device."""
    # Only if CUDA is in use: asking for its state would initialise it.
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
    return {"cpu": torch.get_rng_state()} | cuda


def set_random_state(states: dict[str, Tensor]) -> None:
    """Restore the states that `random_state` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
