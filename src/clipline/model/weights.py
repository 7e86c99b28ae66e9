"""Where a tower's weights come from: `hub`, `random`, or a local file or folder; each failure in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from clipline import hub
from clipline.config.base import resolve
from clipline.errors import CliplineError, UsageError


def local_weights(weights: str, key: str) -> Path | None:
    """The local file or folder that `weights` names, or None for `hub` and `random`.

    Raises UsageError where it does not exist.
    """
    if weights in {"hub", "random"}:
        return None
    path = resolve(weights)
    if not path.exists():
        raise UsageError(f"{key}: {path} does not exist. Allowed: hub, random, or a local file or folder")
    return path


@contextmanager
def loading(name: str, key: str, *, online: bool) -> Iterator[None]:
    """Turn what the hub's libraries raise when weights cannot be had into one line with the mend.

    online: the weights come from the hub, not from this machine.
    """
    if online:
        hub.reachable()  # switches the hub's offline mode on where it is not: no retries for minutes
    # The libraries raise OSError (and its subclasses) for no network, no such model and no such file;
    # huggingface_hub's own errors are OSErrors and ValueErrors too, timm raises RuntimeError without weights.
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        whose = "the hub's weights for" if online else "the weights in"
        raise CliplineError(
            f"{key}: {whose} {name!r} cannot be had ({first[:160]}). Mend: check the name and the "
            f"network, or set {key} to a local file or folder, or to random"
        ) from error


def load_state(module: nn.Module, path: Path, key: str, ignore: tuple[str, ...] = ()) -> None:
    """Load a safetensors file (or a folder's model.safetensors) into `module`, in place.

    ignore: prefixes of tensors that the file may hold and the module need not (a classifier, say).
    Raises CliplineError where names or shapes do not fit: nothing is left at random silently.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / "model.safetensors" if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        raise UsageError(f"{key}: {file} should be a .safetensors file (pickled weights are not read)")
    try:
        state = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(ignore or ("\0",))}
        missing, unexpected = module.load_state_dict(state, strict=False)
    except SafetensorError as error:
        raise CliplineError(f"{key}: {file} is damaged: {error}") from error
    except RuntimeError as error:  # torch lists the shapes that differ
        raise CliplineError(f"{key}: {file} does not fit the tower: {str(error).splitlines()[1].strip()}") from error
    if missing or unexpected:
        raise CliplineError(
            f"{key}: {file} does not fit the tower: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}"
        )
