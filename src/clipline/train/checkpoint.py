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
from clipline.utils.remedies import remedy

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its recipe. info: dataset and its fingerprint, seed, best epoch and its figures."""

    model: CLIP
    recipe: Recipe
    info: dict[str, Any]


def save(folder: Path, model: CLIP, recipe: Recipe, vocab_size: int, info: dict[str, Any]) -> None:
    """Write the checkpoint atomically, with the hashes that `load` checks.

    vocab_size: number of tokens of the tokenizer. info: written to config.json. Raises CliplineError if the files
    cannot be written.
    """
    config = {
        "recipe": recipe.model_dump(mode="json"),
        "vocab_size": vocab_size,
        "text_config": text_config(model.text_tower),
        "info": info,
    }
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    try:
        with atomic_folder(folder) as new:
            save_file(tensors, new / WEIGHTS)
            files = {WEIGHTS: checksums.file_hash(new / WEIGHTS)}
            checksums.write_with_checksum(new / "config.json", config | {"files": files})
    # safetensors raises its own error if the disk is full.
    except (SafetensorError, OSError) as error:
        raise CliplineError(
            f"{folder}: cannot be written: {first_line(error)}. Fix: {remedy(error)}; then run again: training resumes "
            "where it stopped"
        ) from error


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint, also of an earlier version: in evaluation mode, on the CPU.

    Raises CliplineError if it is missing or damaged.
    """
    try:
        config = checksums.read_verified(folder / "config.json")
        checksums.check_files(folder, config["files"])
        state = load_file(folder / WEIGHTS)
        recipe = validate(Recipe, config["recipe"], str(folder / "config.json"), from_earlier_version=True)
        model = build_model(recipe, config["vocab_size"], text_config=config["text_config"])
        model.load_state_dict(state)
        info = dict(config["info"])
    except FileNotFoundError as error:
        raise CliplineError(f"{error.filename}: no such file. The train stage writes checkpoints") from None
    # ValueError: neither JSON nor UTF-8; RuntimeError: from torch, for weights of another model.
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        if out_of_memory(error):  # the files are not at fault
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error).rstrip(":")
        raise CliplineError(f"{folder}: damaged checkpoint: {reason}. Fix: dvc repro train") from None
    return Checkpoint(model.eval(), recipe, info)


def weights_hash(folder: Path) -> str:
    """SHA-256 of model.safetensors."""
    return checksums.file_hash(folder / WEIGHTS)
