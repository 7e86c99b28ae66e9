"""Every recipe of the repository, cut small, on a tiny dataset: trains, and is the same model when it is read again.

tests/export/test_graph.py exports the same models.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipline.config.base import read_yaml, validate
from clipline.config.recipe import Recipe
from clipline.data.prepare import prepare
from clipline.data.prepared import Prepared
from clipline.model.clip import build_model
from clipline.model.embedder import TorchModel
from clipline.train import checkpoint
from clipline.train.loop import Trainer
from tests.factories import scenes
from tests.recipes import PATHS, small_values

IMAGES, BATCH = 10, 3
CAPTIONS = ["noise number 3", "a caption of its own"]
CPU = torch.device("cpu")


def two_steps(name: str) -> Recipe:
    """The recipe with small towers, for epochs of two steps of three samples."""
    values = small_values(name)
    # Layers that are frozen at first are frozen in the first of two epochs.
    waiting = [rule for rules in values["train"].get("freeze", {}).values() for rule in rules if "epochs" in rule]
    for rule in waiting:
        rule["epochs"] = 1
    if values["train"].get("augment"):
        values["train"]["augment"]["disable_last_epochs"] = 0
    values["train"] |= {"epochs": 2 if waiting else 1, "batch_size": BATCH, "captions": "random", "early_stop": None}
    return validate(Recipe, values, name)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """data/raw with ten noise images of different shapes."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    (folder / "images").mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for index in range(IMAGES):
            pixels = rng.integers(0, 256, (60 + 10 * index, 120, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
            writer.writerow([f"{index}.png", f"noise number {index}, with a caption of its own"])
    return folder


@pytest.mark.parametrize("name", PATHS)
def test_recipe_trains_and_is_saved(name, photos, tmp_path):
    recipe = two_steps(name)
    dataset = scenes(IMAGES, IMAGES, val=2, test=2)
    prepare(photos, tmp_path / "prepared", dataset, recipe, max_broken=0.0)
    data = Prepared(tmp_path / "prepared")
    trainer = Trainer(recipe, data, seed=0, device=CPU, cache=tmp_path / "cache")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    rows, changed = [], set()

    def on_row(row, when):  # while the weights are those of the row's epoch, not of the best one
        rows.append(row)
        changed.update(name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name]))

    trainer.fit(on_row)
    assert rows[-1]["step"] == 2 * recipe.train.epochs and np.isfinite(rows[-1]["train_loss"])
    for tower, config in (("image", recipe.image), ("text", recipe.text)):
        assert any(name.startswith(f"{tower}_tower") for name in changed) == config.trainable
        assert any(name.startswith(f"{tower}_head") for name in changed)
    assert ("temperature.log_scale" in changed) == recipe.temperature.learned

    info = {"recipe": name, "dataset": "noise", "dataset_fingerprint": data.fingerprint}
    checkpoint.save(tmp_path / "checkpoint", trainer.model, recipe, data.vocab_size, info)
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert (saved.recipe, saved.info) == (recipe, info)
    pixels = np.array(data.split("test").images[:2])
    ours, theirs = (TorchModel(model, data.tokenizer, CPU) for model in (trainer.model, saved.model))
    assert np.array_equal(ours.embed_pixels(pixels), theirs.embed_pixels(pixels))
    assert np.array_equal(ours.embed_texts(CAPTIONS), theirs.embed_texts(CAPTIONS))


@pytest.mark.parametrize("name", PATHS)
def test_towers_of_the_recipes_own_sizes_fit_together(name):
    """On the meta device, which has shapes and no values: nothing is computed."""
    values = read_yaml(PATHS[name])
    values["image"] |= {"weights": "random", "init": "random"} if "init" in values["image"] else {"weights": "random"}
    values["text"]["weights"] = "random"
    values["inputs"]["tokenizer"] = {"kind": "wordpiece", "vocab_size": 200}
    recipe = validate(Recipe, values, name)
    size, length, dim = recipe.inputs.image_size, recipe.inputs.max_length, recipe.head.dim
    with torch.device("meta"), torch.inference_mode():
        model = build_model(recipe, 200).eval()
        assert model.encode_image(torch.zeros(2, size, size, 3, dtype=torch.uint8)).shape == (2, dim)
        # Without a mask, whose values transformers would read.
        states = model.text_tower.net(torch.zeros(2, length, dtype=torch.int64)).last_hidden_state
        assert states.shape[:2] == (2, length) and model.text_tower.width % states.shape[2] == 0
        assert model.text_head(torch.zeros(2, model.text_tower.width)).shape == (2, dim)
