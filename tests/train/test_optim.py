"""Parameter groups and schedules."""

import math

import pytest
import torch

from clipline.model.clip import build_model
from clipline.train.optim import Scheduler, build_optimizer, learning_rates

CPU = torch.device("cpu")


def test_every_trainable_parameter_is_in_one_group_with_its_rate_and_decay(make_recipe):
    recipe = make_recipe({"train.optimizer.lr": {"image": 1.0, "text": 2.0, "head": 3.0}})
    model = build_model(recipe, 100)
    optimizer = build_optimizer(model, recipe.train.optimizer, CPU)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(group_of) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        kind = "image" if name.startswith("image_tower") else "text" if name.startswith("text_tower") else "head"
        assert group["lr"] == {"image": 1.0, "text": 2.0, "head": 3.0}[kind], name
        decay = {"image": 0.1, "text": 0.2, "head": 0.3}[kind] if parameter.ndim > 1 else 0.0
        assert group["weight_decay"] == decay, name


def test_frozen_parameters_are_in_none(make_recipe):
    recipe = make_recipe({"image.trainable": False, "temperature.learned": False})
    optimizer = build_optimizer(build_model(recipe, 100), recipe.train.optimizer, CPU)
    assert learning_rates(optimizer).keys() == {"lr_text", "lr_head"}
    assert all(p.requires_grad for group in optimizer.param_groups for p in group["params"])


def rates(recipe, steps, losses=(), name="lr_head"):
    optimizer = build_optimizer(build_model(recipe, 100), recipe.train.optimizer, CPU)
    scheduler, seen = Scheduler(optimizer, recipe.train, steps), []
    for step in range(steps):
        seen.append(learning_rates(optimizer)[name])
        optimizer.step()
        scheduler.step()
        if losses:
            scheduler.epoch(losses[step])
    return seen


def test_cosine_warms_up_and_ends_at_its_floor(make_recipe):
    schedule = {"kind": "cosine", "warmup": 0.1, "floor": 0.01}
    seen = rates(make_recipe({"train.schedule": schedule}), 100)
    assert seen[:10] == pytest.approx([1e-4 * n for n in range(1, 11)])
    assert seen[10] == pytest.approx(1e-3)
    assert seen[55] == pytest.approx(1e-3 * (0.01 + 0.99 * 0.5), rel=1e-6)
    expected_last = 0.01 + 0.99 * (1 + math.cos(math.pi * 89 / 90)) / 2
    assert seen[99] == pytest.approx(1e-3 * expected_last) and seen[99] < 1.1e-5


def test_the_cosine_starts_at_the_first_trainable_epoch(make_recipe):
    recipe = make_recipe(
        {
            "train.epochs": 5,
            "train.schedule": {"kind": "cosine", "warmup": 0.1},
            "train.freeze": {"image": [{"share": 1.0, "epochs": 3}, {"share": 0.5}], "text": [{"share": 1.0}]},
        }
    )
    seen = rates(recipe, 100, name="lr_image")
    assert seen[:60] == [0.0] * 60
    alone = rates(make_recipe({"train.schedule": {"kind": "cosine", "warmup": 0.1}}), 40, name="lr_image")
    assert seen[60:] == alone and max(alone) == 1e-3
    assert rates(recipe, 100) == rates(make_recipe({"train.schedule": {"kind": "cosine", "warmup": 0.1}}), 100)
    assert set(rates(recipe, 100, name="lr_text")) == {0.0}


def test_constant(make_recipe):
    assert set(rates(make_recipe(), 20)) == {1e-3}


def test_plateau_falls_after_patience(make_recipe):
    schedule = {"kind": "plateau", "factor": 0.5, "patience": 1}
    seen = rates(make_recipe({"train.schedule": schedule}), 6, losses=[1.0, 2.0, 2.0, 2.0, 2.0, 0.5])
    assert seen == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])
