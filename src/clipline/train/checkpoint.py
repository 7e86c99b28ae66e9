"""A trained model on disk: `model.safetensors` and `config.json`, never pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clipline.config.base import validate
from clipline.config.recipe import Recipe
from clipline.errors import CliplineError, first_line, out_of_memory
from clipline.model.clip import CLIP, build_model
from clipline.model.text_tower import text_config
from clipline.utils import checksums
from clipline.utils.files import atomic_folder

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it was made from. info: dataset, fingerprint, seed, best epoch and its figures."""

    model: CLIP
    recipe: Recipe
    info: dict[str, Any]


def save(folder: Path, model: CLIP, recipe: Recipe, vocab_size: int, info: dict[str, Any]) -> None:
    """Write the checkpoint, whole or not at all, with the hashes that `load` asks for; info goes into config.json.

    Raises CliplineError where the disk refuses.
    """
    config = {
        "recipe": recipe.model_dump(mode="json"),
        "vocab_size": vocab_size,
        "text_config": text_config(model.text_tower),
        "info": info,
    }
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    try:
        with atomic_folder(folder) as place:
            save_file(tensors, place / WEIGHTS)
            files = {WEIGHTS: checksums.file_hash(place / WEIGHTS)}
            checksums.write_with_checksum(place / "config.json", config | {"files": files})
    # The library has no OSError for what the disk refuses.
    except (SafetensorError, OSError) as error:
        raise CliplineError(
            f"{folder}: cannot write: {error}. Fix: free some room or fix its permissions, then run again: training "
            "goes on where it stood"
        ) from error


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint, in evaluation mode on the CPU. Raises CliplineError where it is absent or damaged."""
    try:
        config = checksums.read_verified(folder / "config.json")
        checksums.check_files(folder, config["files"])
        state = load_file(folder / WEIGHTS)
        recipe = validate(Recipe, config["recipe"], str(folder / "config.json"), from_earlier_version=True)
        model = build_model(recipe, config["vocab_size"], text_config=config["text_config"])
        model.load_state_dict(state)
        info = dict(config["info"])
    except FileNotFoundError as error:
        raise CliplineError(f"{error.filename}: no such file. A checkpoint is what the train stage writes") from None
    # ValueError: neither JSON nor UTF-8; RuntimeError: torch's, for weights of another model.
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        if out_of_memory(error):  # nothing is wrong with the files
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error).rstrip(":")
        raise CliplineError(f"{folder}: damaged checkpoint: {reason}. Fix: dvc repro train") from None
    return Checkpoint(model.eval(), recipe, info)


def weights_hash(folder: Path) -> str:
    """SHA-256 of model.safetensors."""
    return checksums.file_hash(folder / WEIGHTS)
