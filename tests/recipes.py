"""The repository's recipes, cut small: the same kinds of towers, pools and heads, one or two layers of 64 channels."""

from __future__ import annotations

from pathlib import Path

import torch

from clipline.config.base import read_yaml, validate
from clipline.config.recipe import Recipe
from clipline.model.clip import CLIP, build_model

PATHS = {path.stem: path for path in sorted(Path(__file__).parents[1].glob("configs/recipe/*.yaml"))}
VOCABULARY = 200
# What the text towers' configurations call their sizes.
TEXT_SIZES = {
    "bert": {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "max_position_embeddings": 100,
    },
    "distilbert": {"dim": 64, "n_heads": 2, "hidden_dim": 64, "n_layers": 1},
    "gpt2": {"n_embd": 64, "n_head": 2, "n_layer": 1, "n_positions": 100},
    "clip_text_model": {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "projection_dim": 64,
    },
}
# By the beginning of timm's name.
TIMM_SIZES = {
    "vit": {"patch_size": 8, "depth": 1, "embed_dim": 64, "num_heads": 2},
    "resnet50": {"layers": [1, 1, 1, 1]},
    "mobilenetv1": {"depth_multiplier": 0.1},
    "test_": {},
}


def small_recipe(name: str) -> Recipe:
    """The recipe `name` with random weights, small towers, small images and a tokenizer that is trained."""
    return validate(Recipe, small_values(name), str(PATHS[name]))


def small_values(name: str) -> dict:
    """The settings of `small_recipe`."""
    values = read_yaml(PATHS[name])
    image, text, inputs = values["image"], values["text"], values["inputs"]
    image["weights"] = text["weights"] = "random"
    inputs["tokenizer"] = {"kind": "bpe" if inputs["tokenizer"]["kind"] == "bpe" else "wordpiece"}
    inputs["tokenizer"]["vocab_size"] = 300
    inputs["image_size"] = values["head"]["dim"] = 64
    if image["tower"] == "vit":
        image |= {"patch": 8, "width": 64, "depth": 1, "heads": 2, "mlp": 96}
    else:
        (sizes,) = (sizes for start, sizes in TIMM_SIZES.items() if image["name"].startswith(start))
        image["args"] = image.get("args", {}) | sizes
    sizes = TEXT_SIZES[text["architecture"]]
    if text.get("layers", 1) == 2:  # of those the pool takes
        sizes = sizes | {"num_hidden_layers": 2}
    text["args"] = text.get("args", {}) | sizes
    return values


def small_model(recipe: Recipe) -> CLIP:
    """The model of `recipe`, in evaluation mode. Nothing in it is neutral, as statistics of a new BatchNorm are."""
    torch.manual_seed(0)
    model = build_model(recipe, VOCABULARY).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model
