"""Training steps in one, two and four processes: they take the step that one process takes.

All processes run this file as a script (see the end), forked once torch is imported, and write their results.
"""

import copy
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from clipline.config.recipe import Recipe
from clipline.data.prepared import Prepared
from clipline.model.clip import build_model
from clipline.train.batches import Batches
from clipline.train.distributed.gather import rank, world_size
from clipline.train.distributed.processes import all_reduce_sum
from clipline.train.loop import Trainer
from clipline.train.phases import PhaseTimer
from clipline.train.state import CheckpointManager
from clipline.train.step import Step
from clipline.train.towers import Towers

CPU = torch.device("cpu")
WORLDS = [1, 2, 4]
STEPS = 2
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PLAIN = {
    "image.depth": 2,
    "text.args": TEXT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "loss": {"kind": "multi_positive"},
    "train.epochs": STEPS,
    "train.captions": "random",
    "train.captions_per_image": 2,
    # Some gradients are zero except for rounding, such as that of the keys' bias: AdamW should not amplify them.
    "train.optimizer.eps": 1e-3,
}
THAWING = {"image": [{"share": 0.5, "epochs": 1}], "text": [{"share": 1.0, "epochs": 1}]}
# A CNN from scratch has running statistics of 0 and 1: a frozen norm only scales, which is enough here.
NORMS = {"image": {"tower": "timm", "name": "test_resnet.r160_in1k", "weights": "random", "trainable": True}}
FROZEN = NORMS | {"train.batch_norm": "frozen"}
CASES = {
    "plain": {},
    "micro-batches": {"train.micro_batch_size": 3},
    # Of seven images one of two processes has four micro-batches and the other three.
    "micro-batches of one": {"train.micro_batch_size": 1},
    "thawing in micro-batches": {"train.micro_batch_size": 2, "train.freeze": THAWING},
    "thawing": {"train.freeze": THAWING, "train.grad_clip": 0.01, "train.ema": 0.9}
    | {"train.optimizer.layer_decay": {"image": 0.5}},
    "checkpointing": {"train.grad_checkpointing": True, "loss": {"kind": "siglip"}},
    "a frozen tower": {"text.trainable": False},
    "frozen norms": FROZEN,
    "frozen norms in micro-batches": FROZEN | {"train.micro_batch_size": 3},
    "frozen norms in micro-batches of one": FROZEN | {"train.micro_batch_size": 1},
    "norms": NORMS,
}
# A case and a number of processes.
RUNS = [(case, world) for case in CASES for world in (1, 2)]
RUNS += [(case, 4) for case in ("plain", "micro-batches", "thawing")]
CACHE = {}


@pytest.fixture
def output(prepared, make_recipe, tmp_path_factory):
    """The folder with the results of the first process of each run, tensors by name."""
    if not CACHE:
        folder = tmp_path_factory.mktemp("steps")
        for name, changes in CASES.items():
            (folder / f"{name}.json").write_text(make_recipe(PLAIN | changes).model_dump_json())
        (folder / "trained.json").write_text(make_recipe(PLAIN | TRAINED).model_dump_json())
        command = [sys.executable, __file__, str(prepared), str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        CACHE["folder"] = folder
    return CACHE["folder"]


def assert_close(actual, wanted, rtol, atol):
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            actual[name], value, rtol=rtol, atol=atol, msg=lambda text, at=name: f"{at}: {text}", equal_nan=True
        )


@pytest.mark.parametrize(("case", "world"), [run for run in RUNS if run[1] > 1 and run[0] != "norms"])
def test_losses_gradients_and_weights_are_those_of_one_process(output, case, world):
    """Over two steps, each of which begins an epoch."""
    wanted = load_file(output / f"{case}-1.safetensors")
    assert_close(load_file(output / f"{case}-{world}.safetensors"), wanted, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("case", [case for case in CASES if "micro" in case and "thawing" not in case])
def test_micro_batches_change_nothing(output, case):
    wanted = load_file(output / f"{case.partition(' in ')[0].replace(case, 'plain')}-1.safetensors")
    assert_close(load_file(output / f"{case}-1.safetensors"), wanted, rtol=1e-9, atol=1e-13)


def test_there_is_something_to_compare(output):
    thawing = load_file(output / "thawing-1.safetensors")
    deep = [name for name in thawing if name.startswith("gradient.") and "blocks.0.attn.qkv.weight" in name]
    assert deep == ["gradient.1.image_tower.net.blocks.0.attn.qkv.weight"]
    squares = sum(tensor.square().sum() for name, tensor in thawing.items() if name.startswith("gradient.1."))
    assert squares.sqrt().item() == pytest.approx(0.01, rel=1e-3)
    norms = load_file(output / "frozen norms-1.safetensors")
    assert any("gradient.0.image_tower.net.bn1.weight" in name and tensor.any() for name, tensor in norms.items())


def test_batch_norm_follows_the_first_process(output):
    """With `batch`, the loss differs from that of one process, and the statistics are those of a part of the batch."""
    one, two = (load_file(output / f"norms-{world}.safetensors") for world in (1, 2))
    assert abs(two["loss.0"] - one["loss.0"]) > 1e-6
    name = "buffer.image_tower.net.bn1.running_mean"
    assert not torch.allclose(two[name], one[name], rtol=1e-3)
    torch.testing.assert_close(two[name], one["of the first three"], rtol=1e-9, atol=1e-13)


# ---------------------------------------------------------------- trainings

TRAINED = {
    "train.epochs": 2,
    "train.batch_size": 15,
    "train.ema": 0.9,
    "train.wise_ft": 0.7,
    "train.grad_clip": 1.0,
    "train.schedule": {"kind": "cosine"},
    "train.freeze": {"image": [{"share": 0.5, "epochs": 1}]},
    "head.dropout": 0.0,
}


def test_a_training_in_two_processes_ends_in_the_model_of_one(output):
    one, two = (load_file(output / f"trained-{world}-first.safetensors") for world in (1, 2))
    assert_close(two, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("world", [1, 2])
def test_a_resumed_training_ends_in_the_same_weights(output, world):
    first, resumed = (load_file(output / f"trained-{world}-{name}.safetensors") for name in ("first", "resumed"))
    assert_close(resumed, first, rtol=0, atol=0)
    rows = [json.loads((output / f"trained-{world}-{name}.json").read_text()) for name in ("first", "resumed")]
    assert rows[0] == rows[1]


def test_the_state_is_the_file_that_one_process_writes(output):
    one, two = (load_file(output / f"trained-{world}-state.safetensors") for world in (1, 2))
    own = {name for name in two if name.startswith("random.1.")}
    two = {name: tensor for name, tensor in two.items() if name not in own}
    assert own and two.keys() == one.keys()
    assert {name.partition(".")[0] for name in one} >= {"model", "best", "optimizer", "average", "random"}
    assert all(two[name].shape == tensor.shape and two[name].dtype == tensor.dtype for name, tensor in one.items())
    assert_close(
        {name: tensor for name, tensor in two.items() if name.startswith(("model.", "average."))},
        {name: tensor for name, tensor in one.items() if name.startswith(("model.", "average."))},
        rtol=1e-3,
        atol=1e-5,
    )


# ---------------------------------------------------------------- what each process runs


def take_steps(recipe, data):
    """Take some steps in float64. Returns losses, gradients, weights and buffers."""
    torch.manual_seed(0)
    model, split = build_model(recipe, data.vocab_size).double(), data.split("train")
    features = {}
    if not recipe.text.trainable:
        features["text"] = torch.randn(len(split.captions), model.text_tower.width, dtype=torch.float64)
    batches = Batches(split, features, CPU)
    step = Step(model, recipe, batches, STEPS, PhaseTimer(CPU), 0)
    output = {}
    if world_size() == 1 and recipe.train.batch_norm == "batch" and recipe.image.tower == "timm":
        alone = copy.deepcopy(model.image_tower)
        alone(batches.images(np.arange(3)))
        output["of the first three"] = alone.net.bn1.running_mean
    for number in range(STEPS):
        step.begin(number + 1)
        # Seven do not divide by two or four.
        images = np.arange(7 * number, 7 * number + 7)
        captions = np.concatenate([np.flatnonzero(split.caption_image == image) for image in images])
        output[f"loss.{number}"] = all_reduce_sum(step(images, captions))
        output |= {f"buffer.{name}": tensor.clone() for name, tensor in model.named_buffers() if number == 0}
        gradients = {name: param.grad for name, param in step.parameters.items() if param.grad is not None}
        output |= {f"gradient.{number}.{name}": tensor for name, tensor in contiguous(gradients).items()}
    output |= {f"weight.{name}": tensor for name, tensor in contiguous(step.parameters).items()}
    if step.average:
        output |= {f"average.{name}": tensor for name, tensor in contiguous(step.average.weights).items()}
    return output


def contiguous(tensors):
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def train(recipe, data, folder):
    """Train to the end; then resume from the last state but one."""
    states = folder / f"states-{world_size()}"
    for name in ("first", "resumed"):
        checkpoints = CheckpointManager(states)
        trainer = Trainer(
            recipe,
            data,
            seed=0,
            device=CPU,
            cache=folder / "cache",
            checkpoints=None if rank() else checkpoints,
            state=checkpoints.newest(),
            save_every=3,
        )
        assert (trainer.step.number == 0) == (name == "first")
        rows = []
        trainer.fit(lambda row, when, rows=rows: rows.append([row["train_loss"], row["val_loss"]]))
        if not rank():
            weights = {key: tensor.contiguous() for key, tensor in trainer.model.state_dict().items()}
            save_file(weights, folder / f"trained-{world_size()}-{name}.safetensors")
            (folder / f"trained-{world_size()}-{name}.json").write_text(json.dumps(rows))
            *_, last = sorted(states.iterdir())
            shutil.move(last, folder / f"trained-{world_size()}-state.safetensors")
        if world_size() > 1:
            dist.barrier()


def main(number, world, prepared, folder):
    torch.set_num_threads(1)
    data = Prepared(prepared)
    if world > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store{world}",
            rank=number,
            world_size=world,
            timeout=timedelta(seconds=60),
        )
    if world < 4:
        train(Recipe.from_yaml(folder / "trained.json"), data, folder)
    # Without its cast to float32.
    Towers._run = lambda self, tower, *inputs: tower(*inputs)
    for case in (case for case, size in RUNS if size == world):
        tensors = take_steps(Recipe.from_yaml(folder / f"{case}.json"), data)
        if not number:
            save_file(tensors, folder / f"{case}-{world}.safetensors")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    for world in WORLDS:
        processes = [
            fork.Process(target=main, args=(number, world, *map(Path, sys.argv[1:]))) for number in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(1)
