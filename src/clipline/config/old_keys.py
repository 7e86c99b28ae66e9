"""Settings keys of earlier versions: the new name of a renamed key, the one accepted value of a removed key."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError


class Removed(NamedTuple):
    """A key that no longer exists. default: what it meant when it was left out. advice: what to use instead."""

    default: Any
    advice: str


# "Class.key" of the settings class that had the key -> its new name, or Removed.
OLD_KEYS: dict[str, str | Removed] = {
    "Augment.erase": Removed(None, "Fix: leave it out; crop and colour change images too"),
    "Augment.grey": Removed(0.0, "Fix: leave it out; colour.saturation weakens colours"),
    "Augment.off_last": "disable_last_epochs",
    "Augment.synonyms": Removed(None, "Fix: leave it out; word_dropout changes captions too"),
    "Head.copies": "num_heads",
    "Train.chunk": "micro_batch_size",
    "TrainParams.shard": Removed(
        False,
        "Each process now holds the whole model. Fix: leave it out; to use less memory, set train.grad_checkpointing: "
        "true or a smaller train.micro_batch_size in the recipe",
    ),
}


def translate(section: str, values: dict[str, Any], *, rename: bool) -> dict[str, Any]:
    """The values of the settings class `section` without old keys.

    A removed key is dropped where it has its default. A renamed key gets its new name with `rename`, as for values
    that an earlier version wrote; otherwise, and for a removed key with another value, raises PydanticCustomError.
    """
    current = {}
    for key, value in values.items():
        old = OLD_KEYS.get(f"{section}.{key}")
        if old is None:
            current[key] = value
        elif isinstance(old, Removed):
            if value != old.default:
                raise _error(f"`{key}` was removed: only {json.dumps(old.default)} is still accepted. {old.advice}")
        elif rename:
            current[old] = value
        else:
            raise _error(f"`{key}` was renamed. Fix: write `{old}`")
    return current


def _error(message: str) -> PydanticCustomError:
    return PydanticCustomError("combination", "{message}", {"message": message})
