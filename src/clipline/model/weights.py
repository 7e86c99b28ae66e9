"""Weights of a tower from the hub, or from a local file or folder. Every failure is one line.

Weights are always safetensors, because unpickling a file can run any code. The libraries would fall back to pickled
files (`pytorch_model.bin`, also by an index of shards), so that torch.load is disabled while they load.
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
    "Pickled weights (.bin, .pt, .pth) can run any code and are never read. Fix: load them in an environment that you "
    "trust, and save them with safetensors.torch.save_file"
)


def local_weights(weights: str, key: str) -> Path | None:
    """The local file or folder that `weights` names, or None for `hub` and `random`.

    key: the setting, for error messages. Raises UsageError if the path does not exist, or has no safetensors.
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
    """Turn errors of the hub's libraries into one line with the fix.

    online: whether the weights come from the hub, not from this machine.
    """
    # Otherwise transformers asks a service on the hub to convert pickled weights, and uses the result.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    if online:
        hub.reachable()  # without a network this sets the hub's offline mode, which avoids minutes of retries
    # The libraries raise OSError and its subclasses for no network, no such model and no such file; huggingface_hub's
    # errors are OSErrors or ValueErrors, and timm raises RuntimeError if it has no weights.
    try:
        with _no_pickle(name, key):
            yield
    except (OSError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        source = "the hub's weights for" if online else "the weights in"
        raise CliplineError(
            f"{key}: {source} {name!r} cannot be loaded ({first_line(error)}). Fix: check the name and the "
            f"network, or set {key} to a local file or folder, or to random"
        ) from error


@contextmanager
def arguments(key: str, args: dict[str, Any]) -> Iterator[None]:
    """Turn a library's errors for arguments that the model does not accept into UsageError. key: of `args`."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, AttributeError, LookupError, StrictDataclassError) as error:
        if not args:
            raise
        raise UsageError(f"{key}: {args} is not accepted by the model: {' '.join(str(error).split())[:200]}") from error


@contextmanager
def _no_pickle(name: str, key: str) -> Iterator[None]:
    """Inside the block torch.load, with which the libraries read pickled weights, raises UsageError."""

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

    ignore: prefixes of tensors in the file that are not used, such as a classifier's.
    Raises CliplineError if names or shapes do not fit: no tensor silently stays random.
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
        shapes = str(error).splitlines()[1:] or [str(error)]  # torch lists them below its first line
        raise CliplineError(f"{key}: {file} does not fit the tower: {shapes[0].strip()}") from error
    if missing or unexpected:
        raise CliplineError(
            f"{key}: {file} does not fit the tower: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}"
        )
