"""Effects of the settings of a step on a small training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipline.data.prepared import Prepared
from clipline.train.flops import FlopCounter
from clipline.train.loop import Trainer
from clipline.train.optim import learning_rates
from clipline.train.samples import Sampler

CPU = torch.device("cpu")
PLAIN = {"train.epochs": 2, "train.batch_size": 20, "train.captions": "random"}


@pytest.fixture
def trainer(make_recipe, prepared, tmp_path):
    def make(changes):
        return Trainer(make_recipe(PLAIN | changes), Prepared(prepared), seed=0, device=CPU, cache=tmp_path)

    return make


def fitted(made):
    rows = []
    made.fit(lambda row, when: rows.append(row))
    return rows


@pytest.mark.parametrize("loss", ["infonce", "soft_target", "multi_positive", "siglip"])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_micro_batches_train_like_the_batch(trainer, no_dropout, loss, size):
    at_once, split = (
        fitted(trainer(no_dropout | {"loss": {"kind": loss}, "train.micro_batch_size": rows})) for rows in (None, size)
    )
    for name in ("train_loss", "val_loss", "temperature"):
        assert [row[name] for row in split] == pytest.approx([row[name] for row in at_once], rel=1e-3)


def test_gradient_checkpointing_changes_nothing(trainer):
    plain, saving = (fitted(trainer({"train.grad_checkpointing": on})) for on in (False, True))
    assert [row["train_loss"] for row in saving] == pytest.approx([row["train_loss"] for row in plain], rel=1e-5)


def test_images_with_several_captions_are_encoded_once(trainer, monkeypatch):
    made = trainer({"loss": {"kind": "multi_positive"}, "train.captions_per_image": 2, "train.epochs": 8})
    seen = {"images": 0, "texts": 0}
    image, text = made.step.towers.image, made.step.towers.text
    made.step.towers.image = lambda x: (seen.__setitem__("images", seen["images"] + len(x)), image(x))[1]
    made.step.towers.text = lambda x: (seen.__setitem__("texts", seen["texts"] + len(x[0])), text(x))[1]
    made.step.begin(1)
    images, captions = next(made.sampler.epoch())
    made.step(images, captions)
    assert seen == {"images": 20, "texts": 40}
    rows = fitted(made)
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"]


def test_several_captions_are_different_ones_of_their_image(prepared):
    split = Prepared(prepared).split("train")
    sampler = Sampler(split, "random", 20, seed=0, per_image=2)
    for images, captions in sampler.epoch():
        assert len(set(captions)) == len(captions) == 2 * len(images)
        assert split.caption_image[captions].tolist() == np.repeat(images, 2).tolist()
    more = Sampler(split, "random", 20, seed=0, per_image=5)  # images have fewer
    assert [len(captions) for _, captions in more.epoch()] == [40, 40, 40]


def test_an_epoch_resumes_where_it_stopped(prepared):
    split = Prepared(prepared).split("train")
    complete, later = (Sampler(split, "random", 8, seed=3) for _ in range(2))
    list(complete.epoch())
    list(later.epoch())
    state = complete.state
    expected = [captions.tolist() for _, captions in complete.epoch()]
    later.state = state
    assert [captions.tolist() for _, captions in later.epoch(skip=2)] == expected[2:]


def test_sigmoid_loss_begins_at_the_share_of_positives_and_learns_its_bias(trainer):
    made = trainer({"loss": {"kind": "siglip"}})
    before = made.model.logit_bias.item()
    assert torch.sigmoid(torch.tensor(before)).item() == pytest.approx(1 / 20)
    fitted(made)
    assert made.model.logit_bias.item() != before


def test_frozen_layers_are_not_trained_at_first(trainer):
    made = trainer({"image.depth": 3, "train.freeze": {"image": [{"share": 0.5, "epochs": 1}]}})
    start = {name: param.detach().clone() for name, param in made.model.image_tower.named_parameters()}
    unchanged = []
    real = made._validate

    def validate():
        unchanged.append(
            [name for name, param in made.model.image_tower.named_parameters() if torch.equal(param, start[name])]
        )
        return real()

    made._validate = validate
    fitted(made)
    # The first two of four layers, which are the patches and three blocks.
    assert any("patch_embed" in name for name in unchanged[0])
    assert all(
        "patch_embed" in name or "blocks.0" in name or "_embed" in name or "token" in name for name in unchanged[0]
    )
    assert not any("blocks" in name or "patch_embed" in name for name in unchanged[1])


def test_layers_that_are_always_frozen_never_change(trainer):
    made = trainer({"train.freeze": {"text": [{"share": 1.0}]}})
    start = {name: param.detach().clone() for name, param in made.model.text_tower.named_parameters()}
    fitted(made)
    assert all(torch.equal(param, start[name]) for name, param in made.model.text_tower.named_parameters())


def test_deep_layers_learn_slower(trainer):
    made = trainer({"image.depth": 2, "train.optimizer.layer_decay": {"image": 0.5}})
    rate_of = {id(p): group["lr"] for group in made.step.optimizer.param_groups for p in group["params"]}
    rates = {name: rate_of[id(param)] for name, param in made.model.named_parameters()}
    image = {name.removeprefix("image_tower.net."): rate for name, rate in rates.items() if name.startswith("image_t")}
    assert {rate for name, rate in image.items() if name.startswith("blocks.1")} == {1e-3}
    assert {rate for name, rate in image.items() if name.startswith("blocks.0")} == {5e-4}
    assert {rate for name, rate in image.items() if name.startswith("patch")} == {2.5e-4}
    assert {rate for name, rate in rates.items() if not name.startswith("image_t")} == {1e-3}
    assert learning_rates(made.step.optimizer)["lr_image"] == 1e-3


@pytest.mark.parametrize(
    "changes", [{"train.ema": 0.9}, {"train.wise_ft": 0.3}, {"train.ema": 0.9, "train.wise_ft": 0.3}]
)
def test_the_validated_weights_are_the_final_weights(trainer, changes):
    """Training itself goes on with its own weights."""
    expected = fitted(trainer({}))
    made = trainer(changes)
    rows = fitted(made)
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in expected]
    assert [row["val_loss"] for row in rows] != [row["val_loss"] for row in expected]
    assert made._validate()["val_loss"] == pytest.approx(made.best["val_loss"], abs=1e-5)


def test_wise_ft_lies_between_the_first_weights_and_the_last(trainer):
    plain = trainer({"train.epochs": 1})
    fitted(plain)
    made = trainer({"train.epochs": 1, "train.wise_ft": 0.25})
    start = {name: param.detach().clone() for name, param in made.model.named_parameters()}
    fitted(made)
    for (name, param), end in zip(made.model.named_parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(param, start[name] + 0.25 * (end - start[name]), atol=1e-6), name


def test_augmentation_is_off_at_the_end(trainer, monkeypatch):
    made = trainer({"train.epochs": 3, "train.augment": {"flip": 0.5, "disable_last_epochs": 1}})
    epochs, real = [], made.step.augment.images
    made.step.augment.images = lambda *arguments: (epochs.append(made.epoch), real(*arguments))[1]
    fitted(made)
    assert set(epochs) == {1, 2}


def test_moments_are_restored_in_the_memory_format_of_their_weights(trainer):
    """Fused AdamW processes both in the order of memory."""
    one, other = trainer({}), trainer({})
    one.step.begin(1)
    one.step(*next(one.sampler.epoch()))
    kept = {name: tensor.contiguous() for name, tensor in one.step.tensors().items()}
    other.step.load(kept, one.step.metadata())
    states = [made.step.optimizer.state[made.model.image_tower.net.patch_embed.proj.weight] for made in (one, other)]
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(states[0][name], states[1][name])
        assert states[0][name].stride() == states[1][name].stride()
    assert not states[1]["exp_avg"].is_contiguous()


def test_rows_have_the_flops(trainer):
    made = trainer({"train.captions_per_image": 2, "loss": {"kind": "multi_positive"}})
    counter = FlopCounter(made.model, made.train.split, CPU)
    # Every image with both captions.
    counter.add(np.arange(60), np.arange(120))
    work = counter.row(1, seconds=1e-12)["tflops"]
    for row in fitted(made):
        assert row["tflops"] == pytest.approx(work / 60 * row["images_per_second"] / 1e12, rel=1e-2, abs=1e-6)
        assert row["tflops"] > 0 and "mfu" not in row


def test_time_by_phase(trainer):
    (row, _) = fitted(trainer({}))
    names = [name for name in row if name.startswith("seconds_")]
    assert names == ["seconds_data", "seconds_forward_backward", "seconds_optimizer", "seconds_eval", "seconds_other"]
    assert all(row[name] >= 0 for name in names)
    assert row["seconds_forward_backward"] > row["seconds_data"] > 0


def test_a_frozen_tower_sees_changed_images_through_cached_views(trainer, tmp_path):
    changes = {"image.trainable": False, "train.views": 2, "train.augment": {"crop": {"scale": [0.3, 0.6]}}}
    made = trainer(changes)
    features = made.train.features["image"]
    assert features.shape[:2] == (60, 3)
    assert made.val.features["image"].shape == (10, features.shape[2])
    plain = trainer({"image.trainable": False}).train.features["image"]
    assert torch.equal(features[:, 0], plain)
    distances = [(features[:, i] - features[:, j]).norm(dim=1).min().item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(distances) > 1e-3
    assert len(list(tmp_path.glob("image-train-*.npy"))) == 3
    # Each call draws one view of each image, and all views are drawn.
    rows = np.arange(60)
    drawn = torch.stack([made.train.images(rows) for _ in range(40)])
    matches = (drawn[:, :, None] == features[None]).all(-1)
    assert matches.any(2).all()
    assert matches.any(0).all()
    assert fitted(made)[-1]["train_loss"] > 0


def test_the_last_epochs_use_the_unchanged_view(trainer):
    made = trainer(
        {
            "image.trainable": False, "train.views": 2, "train.epochs": 3,
            "train.augment": {"crop": {"scale": [0.3, 0.6]}, "disable_last_epochs": 1},
        }
    )  # fmt: skip
    rows, plain = np.arange(60), made.train.features["image"][:, 0]
    for epoch, same in ((2, False), (3, True)):
        made.step.begin(epoch)
        assert torch.equal(made.train.images(rows), plain) == same


def test_several_heads_are_an_ensemble(trainer):
    made = trainer({"head.num_heads": 2, "head.kind": "residual", "train.epochs": 4})
    rows = fitted(made)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    images = made.step.towers.image(made.val.images(np.arange(10)))
    texts = made.step.towers.text(made.val.texts(np.flatnonzero(np.arange(20) % 2 == 0)))
    assert images.shape[1] == 16
    parts = [embeddings.chunk(2, dim=1) for embeddings in (images, texts)]
    assert all(torch.allclose(part.norm(dim=1), torch.ones(10)) for side in parts for part in side)
    similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    assert torch.allclose(similarity, sum(image @ text.T for image, text in zip(*parts, strict=True)) / 2, atol=1e-6)
    objective = made.step.objective
    losses = []
    for image, text in zip(*parts, strict=True):
        logits = made.model.temperature() * image @ text.T
        labels = torch.arange(10)
        losses += [F.cross_entropy(one_side, labels) for one_side in (logits, logits.T)]
    assert objective.pairs(images, texts).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
