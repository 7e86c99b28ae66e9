"""Where a tower's weights come from: `hub`, `random`, or a local file or folder; each failure in one line.

Weights are safetensors, always: a pickled file runs code of whoever made it. The libraries would fall back to pickled
ones (timm's and transformers' `pytorch_model.bin`, also by way of an index of shards), so torch may unpickle nothing
while they load.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from clipline.config.base import resolve
from clipline.errors import CliplineError, UsageError, first_line, out_of_memory
from clipline.utils import hub

ONLY_SAFE = (
    "Pickled weights (.bin, .pt, .pth) may run code and are never read. Fix: load them where you trust them, and save "
    "them with safetensors.torch.save_file"
)


def local_weights(weights: str, key: str) -> Path | None:
    """The local file or folder that `weights` names, or None for `hub` and `random`.

    Raises UsageError where it does not exist, or is not safetensors.
    """
    if weights in {"hub", "random"}:
        return None
    path = resolve(weights)
    if not path.exists():
        raise UsageError(f"{key}: {path} does not exist. Allowed: hub, random, or a local file or folder")
    if not (any(path.glob("*.safetensors")) if path.is_dir() else path.suffix == ".safetensors"):
        raise UsageError(f"{key}: {path} {'holds' if path.is_dir() else 'is'} no .safetensors file. {ONLY_SAFE}")
    return path


@contextmanager
def loading(name: str, key: str, *, online: bool) -> Iterator[None]:
    """Turn what the hub's libraries raise when weights cannot be had into one line with the fix.

    online: the weights come from the hub, not from this machine.
    """
    # Else transformers asks a service on the hub to convert pickled weights, and takes what that proposes.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    if online:
        hub.reachable()  # switches the hub's offline mode on where it is not: no retries for minutes
    # The libraries raise OSError (and its subclasses) for no network, no such model and no such file;
    # huggingface_hub's own errors are OSErrors and ValueErrors too, timm raises RuntimeError without weights.
    try:
        with _no_pickle(name, key):
            yield
    except (OSError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        whose = "the hub's weights for" if online else "the weights in"
        raise CliplineError(
            f"{key}: {whose} {name!r} cannot be had ({first_line(error)}). Fix: check the name and the "
            f"network, or set {key} to a local file or folder, or to random"
        ) from error


@contextmanager
def arguments(key: str, args: dict[str, Any]) -> Iterator[None]:
    """Turn what a library raises for arguments that it does not take into UsageError. key: of `args` in the recipe."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, AttributeError, LookupError, StrictDataclassError) as error:
        if not args:
            raise
        raise UsageError(f"{key}: {args} does not go: {' '.join(str(error).split())[:200]}") from error


@contextmanager
def _no_pickle(name: str, key: str) -> Iterator[None]:
    """torch.load, by which the libraries would read pickled weights, raises UsageError."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise UsageError(f"{key}: {name!r} has pickled weights. {ONLY_SAFE}")

    before = torch.load
    torch.load = refuse
    try:
        yield
    finally:
        torch.load = before


def load_state(module: nn.Module, path: Path, key: str, ignore: tuple[str, ...] = ()) -> None:
    """Load a safetensors file (or a folder's model.safetensors) into `module`, in place.

    ignore: prefixes of tensors that the file may hold and the module need not (a classifier, say).
    Raises CliplineError where names or shapes do not fit: nothing is left at random silently.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{key}: {file}: no such file")
    try:
        state = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(ignore or ("\0",))}
        missing, unexpected = module.load_state_dict(state, strict=False)
    except SafetensorError as error:
        raise CliplineError(f"{key}: {file} is damaged: {error}") from error
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        shapes = str(error).splitlines()[1:] or [str(error)]  # torch lists those that differ below its first line
        raise CliplineError(f"{key}: {file} does not fit the tower: {shapes[0].strip()}") from error
    if missing or unexpected:
        raise CliplineError(
            f"{key}: {file} does not fit the tower: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}"
        )
