"""A trained model on disk: `model.safetensors` and `config.json`, never pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clipline.config.base import validate
from clipline.config.recipe import Recipe
from clipline.errors import CliplineError
from clipline.model.clip import CLIP, build_model
from clipline.model.text_tower import text_config


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it was made from. info: dataset, fingerprint, seed, best epoch and its figures."""

    model: CLIP
    recipe: Recipe
    info: dict[str, Any]


def save(folder: Path, model: CLIP, recipe: Recipe, vocab_size: int, info: dict[str, Any]) -> None:
    """Write the checkpoint; `folder` is made. info goes into config.json as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )
    config = {
        "recipe": recipe.model_dump(mode="json"),
        "vocab_size": vocab_size,
        "text_config": text_config(model.text_tower),
        "info": info,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint, in evaluation mode on the CPU. Raises CliplineError where it is absent or damaged."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
        recipe = validate(Recipe, config["recipe"], str(folder / "config.json"))
        model = build_model(recipe, config["vocab_size"], text_config=config["text_config"])
        model.load_state_dict(state)
        info = dict(config["info"])
    except FileNotFoundError as error:
        raise CliplineError(f"{error.filename}: no such file. A checkpoint is what the train stage writes") from None
    # ValueError: neither JSON nor UTF-8; RuntimeError: torch's, for weights of another model.
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0][:200].rstrip(":")
        raise CliplineError(f"{folder}: damaged checkpoint: {reason}. Mend: dvc repro train") from None
    return Checkpoint(model.eval(), recipe, info)


def weights_hash(folder: Path) -> str:
    """SHA-256 of model.safetensors."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
