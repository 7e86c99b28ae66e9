"""Training learns, is reproducible, selects the best epoch, stops early, and reports a loss that is not finite."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipline.data.prepared import Prepared
from clipline.errors import CliplineError, UsageError
from clipline.model.device import pick_device
from clipline.model.image_tower import ImageTower
from clipline.train import checkpoint
from clipline.train.loop import Trainer
from clipline.train.state import CheckpointManager

CPU = torch.device("cpu")


def trainer(recipe, prepared, cache, seed=0):
    return Trainer(recipe, Prepared(prepared), seed=seed, device=CPU, cache=cache)


def fit(recipe, prepared, cache, seed=0):
    rows, made = [], trainer(recipe, prepared, cache, seed)
    return made, made.fit(lambda row, when: rows.append(row)), rows


LEARN = {"train.epochs": 12, "train.batch_size": 20, "train.captions": "random"}


def test_it_learns(make_recipe, prepared, tmp_path):
    _, best, rows = fit(make_recipe(LEARN), prepared, tmp_path)
    assert [row["epoch"] for row in rows] == list(range(1, 13)) and rows[-1]["step"] == 36
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    assert max(row["val_t2i_r5"] for row in rows) > 60  # chance is 50
    assert best in rows
    assert {
        "val_loss",
        "val_i2t_r1",
        "val_t2i_r10",
        "lr_image",
        "lr_head",
        "temperature",
        "images_per_second",
        "tflops",
    } <= rows[0].keys()


def test_a_seed_repeats_and_another_differs(make_recipe, prepared, tmp_path):
    recipe = make_recipe({**LEARN, "train.epochs": 2})
    losses = [[row["train_loss"] for row in fit(recipe, prepared, tmp_path, seed)[2]] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("frozen", [("image",), ("text",), ("image", "text")])
def test_cached_features_train_the_same_model_as_live_towers(make_recipe, prepared, tmp_path, monkeypatch, frozen):
    recipe = make_recipe({**LEARN, "train.epochs": 2, **{f"{tower}.trainable": False for tower in frozen}})
    cached = fit(recipe, prepared, tmp_path)[2]
    monkeypatch.setattr("clipline.train.loop.cached_features", lambda *arguments: {})
    live = fit(recipe, prepared, tmp_path)[2]
    for key in ("train_loss", "val_loss"):
        assert [row[key] for row in cached] == pytest.approx([row[key] for row in live], rel=1e-4)


def test_a_frozen_tower_runs_once_on_each_image_over_epochs_and_runs(make_recipe, prepared, tmp_path, monkeypatch):
    recipe = make_recipe({**LEARN, "train.epochs": 3, "image.trainable": False})
    seen, forward = [], ImageTower.forward
    monkeypatch.setattr(ImageTower, "forward", lambda self, x: (seen.append(len(x)), forward(self, x))[1])
    for _ in range(2):
        fit(recipe, prepared, tmp_path)
    assert sum(seen) == 70  # 60 train and 10 validation images, in two runs of three epochs


@pytest.mark.parametrize("trainable", [True, False])
def test_mirror_does_not_change_training(make_recipe, prepared, tmp_path, trainable):
    """Not even of heads on cached features: only the validated and final embeddings differ."""
    changes = LEARN | {"train.epochs": 3, "image.trainable": trainable, "train.select": "val_loss"}
    runs = [fit(make_recipe(changes | {"image.mirror": on}), prepared, tmp_path) for on in (False, True)]
    assert [row["train_loss"] for row in runs[0][2]] == [row["train_loss"] for row in runs[1][2]]
    assert runs[0][1]["epoch"] == runs[1][1]["epoch"] == 3 and runs[0][1]["val_loss"] != runs[1][1]["val_loss"]
    one, both = (made.model.state_dict() for made, _, _ in runs)
    assert all(torch.equal(tensor, both[name]) for name, tensor in one.items())
    # The training split's features, which are costly, are not computed again.
    files = [len(list(tmp_path.rglob(f"image-{split}-*.npy"))) for split in ("train", "val")]
    assert files == ([0, 0] if trainable else [1, 2])


FROZEN_AT_FIRST = {"train.freeze": {tower: [{"share": 1.0, "epochs": 2}] for tower in ("image", "text")}}


def test_a_tower_is_frozen_until_its_first_trainable_epoch(make_recipe, prepared, tmp_path, monkeypatch):
    views = {"train.views": 1, "train.augment": {"flip": 0.5}, "train.epochs": 2}
    frozen = fit(make_recipe(LEARN | views | {"image.trainable": False, "text.trainable": False}), prepared, tmp_path)[
        2
    ]
    seen, forward = [], ImageTower.forward

    def spy(self, x):
        seen.append(0 if x.is_meta else len(x))  # FLOPs are counted on the meta device
        return forward(self, x)

    monkeypatch.setattr(ImageTower, "forward", spy)
    rows, runs, changed = [], [], []
    made = trainer(make_recipe(LEARN | views | FROZEN_AT_FIRST | {"train.epochs": 4}), prepared, tmp_path)
    first = {name: tensor.clone() for name, tensor in made.model.image_tower.state_dict().items()}
    seen.clear()

    def on_row(row, when):
        rows.append(row)
        runs.append(sum(seen))
        now = made.model.image_tower.state_dict()
        changed.append(sum(not torch.equal(tensor, first[name]) for name, tensor in now.items()))

    made.fit(on_row)
    # The first two epochs differ from those with frozen towers only in the learning rates of the longer training.
    assert rows[0]["train_loss"] == pytest.approx(frozen[0]["train_loss"], rel=0.05)
    assert runs == [0, 0, 70, 140]  # 60 training and 10 validation images in each epoch in which the tower is trained
    assert changed[:2] == [0, 0] and min(changed[2:]) > 0  # weights and batch norm's statistics


def test_a_training_resumes_at_the_first_trainable_epoch(make_recipe, prepared, tmp_path):
    recipe = make_recipe(LEARN | FROZEN_AT_FIRST | {"train.epochs": 4})
    uncut = fit(recipe, prepared, tmp_path)[2]
    checkpoints = CheckpointManager(tmp_path / "state")
    made = Trainer(recipe, Prepared(prepared), seed=0, device=CPU, cache=tmp_path, checkpoints=checkpoints)

    def stop(row, when):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.fit(stop)
    rows = []
    again = Trainer(recipe, Prepared(prepared), seed=0, device=CPU, cache=tmp_path, state=checkpoints.newest())
    again.fit(lambda row, when: rows.append(row))
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in uncut]


def test_other_weights_use_no_stale_features(make_recipe, prepared, tmp_path):
    recipe = make_recipe({"image.trainable": False})
    one, two = (trainer(recipe, prepared, tmp_path, seed).train.features["image"] for seed in (0, 1))
    assert not torch.equal(one, two)
    other_pool = make_recipe({"image.trainable": False, "image.pool": "avg"})  # with the same weights
    three = trainer(other_pool, prepared, tmp_path, seed=0).train.features["image"]
    assert not torch.equal(one, three)
    assert len(list(tmp_path.glob("image-train-*.npy"))) == 3


@pytest.mark.parametrize(("select", "best"), [("val_rsum", 1), ("val_loss", 2), ("val_r1", 3)])
def test_best_epoch_is_kept_not_the_last(make_recipe, prepared, tmp_path, select, best):
    made = trainer(make_recipe({**LEARN, "train.epochs": 4, "train.select": select}), prepared, tmp_path)
    states, losses, at_1, at_10 = [], iter([3.0, 1.0, 2.0, 1.5]), iter([9.0, 10.0, 12.0, 8.0]), iter([60, 50, 50, 50])
    real = made._validate

    def validate():
        states.append(made.model.image_head[-1].weight.detach().clone())
        # Only these three differ between epochs.
        others = dict.fromkeys(real(), 20.0)
        return {**others, "val_loss": next(losses), "val_i2t_r1": next(at_1), "val_t2i_r10": next(at_10)}

    made._validate = validate
    assert made.fit(lambda row, when: None)["epoch"] == best
    weight = made.model.image_head[-1].weight
    assert torch.equal(weight, states[best - 1]) and not torch.equal(weight, states[3])


def test_early_stop(make_recipe, prepared, tmp_path):
    made, rows = trainer(make_recipe({**LEARN, "train.early_stop": 2}), prepared, tmp_path), []
    made._score = lambda row: -row["epoch"]  # never better than the first epoch
    made.fit(lambda row, when: rows.append(row))
    assert len(rows) == 3


def test_a_loss_that_is_not_finite_stops_with_its_step(make_recipe, prepared, tmp_path):
    made = trainer(make_recipe(LEARN), prepared, tmp_path)
    objective = made.step.objective
    real = objective.loss
    objective.loss = lambda *arguments: real(*arguments) * (float("nan") if made.step.number == 4 else 1.0)
    with pytest.raises(CliplineError, match="not finite at step 5"):
        made.fit(lambda row, when: None)


def test_validation_loss_is_of_each_image_with_its_first_caption(make_recipe, prepared, tmp_path):
    made = trainer(make_recipe({"train.batch_size": 4}), prepared, tmp_path)
    figures = made._validate()
    split, model = made.val.split, made.model.eval()
    pixels = torch.from_numpy(split.images[split.image_rows])
    first = [int(np.flatnonzero(split.caption_image == image)[0]) for image in range(10)]
    with torch.no_grad():
        images = model.encode_image(pixels)
        texts = torch.cat([made.step.towers.text(made.val.texts(np.array([caption]))) for caption in first])
        parts = []
        for start in (0, 4, 8):
            image, text = (F.normalize(embeddings[start : start + 4], dim=-1) for embeddings in (images, texts))
            labels, logits = torch.arange(len(image)), model.temperature() * image @ text.T
            both = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
            parts.append((both.item(), len(image)))
    assert figures["val_loss"] == pytest.approx(sum(loss * n for loss, n in parts) / 10, rel=1e-4)


def test_missing_cuda_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(UsageError, match="no CUDA device"):
        pick_device("cuda")


def test_checkpoint_round_trip(make_recipe, prepared, tmp_path):
    recipe = make_recipe({"head.kind": "mlp"})
    made = trainer(recipe, prepared, tmp_path)
    data = Prepared(prepared)
    checkpoint.save(tmp_path / "c", made.model, recipe, data.vocab_size, {"dataset": "raw"})
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["config.json", "model.safetensors"]
    loaded = checkpoint.load(tmp_path / "c")
    assert loaded.recipe == recipe and loaded.info == {"dataset": "raw"} and not loaded.model.training
    pixels = torch.tensor(data.split("test").images[:2])
    assert torch.equal(loaded.model.encode_image(pixels), made.model.eval().encode_image(pixels))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no such file"),
        (lambda folder: (folder / "config.json").write_text("{"), "damaged checkpoint"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 20), "damaged checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_a_clear_error(make_recipe, prepared, tmp_path, damage, message):
    recipe = make_recipe()
    made = trainer(recipe, prepared, tmp_path)
    checkpoint.save(tmp_path / "c", made.model, recipe, Prepared(prepared).vocab_size, {})
    damage(tmp_path / "c")
    with pytest.raises(CliplineError, match=message):
        checkpoint.load(tmp_path / "c")
