"""Every recipe of the repository, with random weights and a tiny dataset: trains, exports, agrees with torch.

Weights, tokenizer and amounts are changed, and towers cut to two layers or one of each kind, so that it stays quick.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipline.config.base import read_yaml, validate
from clipline.config.dataset import Scenes
from clipline.config.recipe import Recipe
from clipline.config.run import ExportParams, VariantGate
from clipline.data.prepare import prepare
from clipline.data.prepared import Prepared
from clipline.export.export import export_model
from clipline.train import checkpoint
from clipline.train.loop import Trainer

RECIPES = sorted(Path(__file__).parents[2].glob("configs/recipe/*.yaml"))
IMAGES, BATCH = 10, 3
SHORT = {
    "bert": {"num_hidden_layers": 2, "hidden_size": 384, "intermediate_size": 1536},
    "distilbert": {"n_layers": 2},
    "gpt2": {"n_layer": 2},
    "clip_text_model": {"num_hidden_layers": 2},
}


def offline(path: Path) -> Recipe:
    """The recipe with random weights and a trained tokenizer, for epochs of two steps of three samples."""
    values = read_yaml(path)
    values["image"]["weights"] = values["text"]["weights"] = "random"
    values["text"]["args"] = {**SHORT[values["text"]["architecture"]], **values["text"].get("args", {})}
    if values["image"]["tower"] == "vit":
        values["image"]["depth"] = 2
    elif "vit" in values["image"]["name"]:
        values["image"]["args"] = {"depth": 2}
    elif "resnet50" in values["image"]["name"]:
        values["image"]["args"] = {"layers": [1, 1, 1, 1]}
    if values["inputs"]["tokenizer"]["kind"] == "tower":
        values["inputs"]["tokenizer"] = {"kind": "wordpiece", "vocab_size": 200}
    # Where layers wait, they do so in the first of two epochs.
    waiting = [each for entries in values["train"].get("freeze", {}).values() for each in entries if "epochs" in each]
    for entry in waiting:
        entry["epochs"] = 1
    if values["train"].get("augment"):
        values["train"]["augment"]["disable_last_epochs"] = 0
    values["train"] |= {"epochs": 2 if waiting else 1, "batch_size": BATCH, "captions": "random", "early_stop": None}
    return validate(Recipe, values, str(path))


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


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_exports_and_agrees(path, photos, tmp_path):
    recipe = offline(path)
    expect = {"images": IMAGES, "captions": IMAGES}
    split = {"kind": "hash", "val": 2, "test": 2}
    dataset = validate(
        Scenes,
        {
            "kind": "scenes",
            "path": None,
            "source": {"images": IMAGES, "size": 64},
            "expect": expect,
            "captions": {},
            "split": split,
        },
        "data",
    )
    prepare(photos, tmp_path / "prepared", dataset, recipe, max_broken=0.0)
    data = Prepared(tmp_path / "prepared")
    trainer = Trainer(recipe, data, seed=0, device=torch.device("cpu"), cache=tmp_path / "cache")
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

    info = {"recipe": path.stem, "dataset": "noise", "dataset_fingerprint": data.fingerprint}
    checkpoint.save(tmp_path / "checkpoint", trainer.model, recipe, data.vocab_size, info)
    gates = ExportParams(
        batch_size=2,
        opset=20,
        min_cosine=0.9999,
        max_abs=1e-4,
        max_r1_drop=0.1,
        precisions=[],  # tests/onnx does both kinds of tower
        calibration_images=1,
        fp16=VariantGate(min_cosine=1.0, max_r1_drop=0.0),
        int8=VariantGate(min_cosine=1.0, max_r1_drop=0.0),
    )
    report = export_model(
        tmp_path / "checkpoint",
        checkpoint.load(tmp_path / "checkpoint"),
        data,
        photos / "images",
        tmp_path / "onnx",
        gates,
    )
    assert report["image"]["fp32"]["min_cosine"] > 0.9999 and report["text"]["fp32"]["min_cosine"] > 0.9999
