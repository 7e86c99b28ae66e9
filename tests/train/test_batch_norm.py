"""What `train.batch_norm` does to towers with batch norms, and that it leaves other towers alone.

Several processes and micro-batches: tests/train/distributed/test_steps.py.
"""

import numpy as np
import pytest
import torch
from torch import nn

from clipline.data.prepared import Prepared
from clipline.errors import UsageError
from clipline.model.clip import build_model
from clipline.train import batch_norm
from clipline.train.loop import Trainer

CPU = torch.device("cpu")
# A network with timm's norms, which include an activation, and one with torch's.
NAMES = ["test_efficientnet.r160_in1k", "test_resnet.r160_in1k"]
PLAIN = {"train.epochs": 1, "train.batch_size": 20, "train.captions": "random"}


def cnn(name, **changes):
    return {"image": {"tower": "timm", "name": name, "weights": "random", "trainable": True} | changes}


def norms(root):
    return {
        name: module for name, module in root.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }


@pytest.fixture
def trainer(make_recipe, prepared, tmp_path):
    def make(changes):
        return Trainer(make_recipe(PLAIN | changes), Prepared(prepared), seed=0, device=CPU, cache=tmp_path)

    return make


def trained(made):
    """The image tower's weights and buffers before and after one epoch."""
    before = {name: tensor.clone() for name, tensor in made.model.image_tower.state_dict().items()}
    made.fit(lambda row, when: None)
    return before, made.model.image_tower.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_frozen_norms_keep_their_statistics_and_train_their_weights(trainer, name):
    made = trainer(cnn(name) | {"train.batch_norm": "frozen"})
    names = norms(made.model.image_tower)
    before, after = trained(made)
    assert len(names) > 5
    for norm in names:
        for kept in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(after[f"{norm}.{kept}"], before[f"{norm}.{kept}"]), norm
    learned = [norm for norm in names if not torch.equal(after[f"{norm}.weight"], before[f"{norm}.weight"])]
    assert len(learned) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_running_statistics_follow_the_batches(trainer, name):
    made = trainer(cnn(name))
    before, after = trained(made)
    for norm in norms(made.model.image_tower):
        assert not torch.equal(after[f"{norm}.running_mean"], before[f"{norm}.running_mean"]), norm
        assert after[f"{norm}.num_batches_tracked"] == 3


@pytest.mark.parametrize(("choice", "alone"), [("batch", False), ("frozen", True)])
def test_an_embedding_depends_on_the_batch_only_where_norms_do(trainer, choice, alone):
    made = trainer(cnn(NAMES[1]) | {"train.batch_norm": choice})
    made.step.begin(1)
    with torch.no_grad():
        eight, two = (made.step.towers.image(made.train.images(np.arange(count))) for count in (8, 2))
    assert torch.allclose(eight[:2], two, rtol=1e-4, atol=1e-5) == alone


def test_only_batch_norms_of_trainable_towers_stay_in_evaluation_mode(trainer):
    made = trainer(cnn(NAMES[1]) | {"train.batch_norm": "frozen", "head.dropout": 0.1})
    made.step.begin(1)
    held = {id(module) for module in norms(made.model).values()}
    assert held and all(module.training != (id(module) in held) for module in made.model.modules())
    made.model.eval()
    made.step.begin(1)  # as after each validation
    assert all(module.training != (id(module) in held) for module in made.model.modules())


def test_towers_without_batch_norm_do_not_change(trainer):
    rows = []
    for choice in ("batch", "frozen"):
        made = trainer({"train.batch_norm": choice})
        made.fit(lambda row, when: rows.append((row["train_loss"], row["val_loss"])))
        assert not norms(made.model)
    assert rows[0] == rows[1]


def test_synchronised_is_for_gpus(trainer):
    with pytest.raises(UsageError, match="works between GPUs, and this training is on the CPU"):
        trainer(cnn(NAMES[1]) | {"train.batch_norm": "synchronised"})


@pytest.mark.parametrize("name", NAMES)
def test_synchronised_norms_replace_batch_norms(make_recipe, monkeypatch, name):
    """Only with several processes, and only in trainable towers."""
    recipe = make_recipe(PLAIN | cnn(name) | {"train.batch_norm": "synchronised"})
    cuda = torch.device("cuda")
    model = build_model(recipe, 100)
    parameters = dict(model.named_parameters())
    batch_norm.prepare(model, recipe.train, cuda)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    monkeypatch.setattr(batch_norm, "world_size", lambda: 2)
    count = len(norms(model))
    batch_norm.prepare(model, recipe.train, cuda)
    assert len(norms(model)) == count
    assert all(isinstance(module, nn.SyncBatchNorm) for module in norms(model).values())
    assert all(param is parameters[key] for key, param in model.named_parameters())
    assert model.state_dict().keys() == build_model(recipe, 100).state_dict().keys()
    frozen = build_model(make_recipe(PLAIN | cnn(name, trainable=False)), 100)
    batch_norm.prepare(frozen, recipe.train, cuda)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in frozen.modules())
