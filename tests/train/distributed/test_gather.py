"""One, two and four real processes compute the loss and the gradients of one process, for every loss.

Each process runs this file as a script (see the end) and writes its results as JSON.
"""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from clipline.config.loss import InfoNCELoss, MultiPositiveLoss, SigLIPLoss, SoftTargetLoss
from clipline.losses import Batch, build_loss
from clipline.train import grad_cache
from clipline.train.distributed import gather as module
from clipline.train.distributed.gather import gather, rank, sum_gradients, world_size

WORLDS = [1, 2, 4]
HARD = {"hard_negatives": 0.7, "label_smoothing": 0.1}
PAIR_LOSSES = {
    "infonce": InfoNCELoss(kind="infonce"),
    "infonce-smooth": InfoNCELoss(kind="infonce", label_smoothing=0.1),
    "infonce-hard": InfoNCELoss(kind="infonce", hard_negatives=0.7),
    "infonce-hard-smooth": InfoNCELoss(kind="infonce", **HARD),
    "soft": SoftTargetLoss(kind="soft_target"),
    "soft-divide": SoftTargetLoss(kind="soft_target", target_scale="divide"),
    "soft-detach": SoftTargetLoss(kind="soft_target", detach_targets=True),
}
LOSSES = {
    "multi": MultiPositiveLoss(kind="multi_positive"),
    "multi-smooth": MultiPositiveLoss(kind="multi_positive", label_smoothing=0.1),
    "multi-hard": MultiPositiveLoss(kind="multi_positive", hard_negatives=0.7),
    "multi-hard-smooth": MultiPositiveLoss(kind="multi_positive", **HARD),
    "siglip": SigLIPLoss(kind="siglip"),
}
# Image ids, and the number of texts of each. Seven rows do not divide by two or four; of three, one of four processes
# gets none.
PAIRS = ([0, 1, 2, 1, 3, 4, 2], [1] * 7)
SEVERAL = ([0, 1, 2, 3, 4, 5, 6], [1, 3, 2, 1, 2, 3, 1])
FEW = ([5, 1, 2], [1] * 3)
FEW_SEVERAL = ([5, 1, 2], [2, 1, 3])
CASES = {
    **{name: (config, PAIRS) for name, config in PAIR_LOSSES.items()},
    **{name: (config, SEVERAL) for name, config in LOSSES.items()},
    **{f"{name}-few": (config, FEW) for name, config in PAIR_LOSSES.items()},
    **{f"{name}-few": (config, FEW_SEVERAL) for name, config in LOSSES.items()},
}
# DDP for one world size only: its imports take seconds in each process.
WAYS = {1: ["sum", "cached"], 2: ["sum", "cached", "ddp"], 4: ["sum", "cached"]}


class Model(nn.Module):
    def __init__(self, bias):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        self.text = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.register_parameter("bias", nn.Parameter(torch.tensor(-1.5)) if bias else None)
        self.double()

    def encode(self, kind, inputs):
        return F.normalize(getattr(self, kind)(inputs), dim=-1)

    def forward(self, pixels, tokens):
        return (
            self.encode("image", pixels),
            self.encode("text", tokens),
            self.log_scale.exp(),
            self.bias if self.bias is None else self.bias.clone(),
        )


def local_slices(counts):
    """This process's slices of a batch's images and texts."""
    bounds = [len(counts) * number // world_size() for number in (rank(), rank() + 1)]
    return slice(*bounds), slice(*(sum(counts[:bound]) for bound in bounds))


def measure(config, rows, way):
    """Loss and gradients of the whole batch, from this process's part of it."""
    ids, counts = rows
    generator = torch.Generator().manual_seed(1)
    pixels, tokens = (
        torch.randn(n, d, generator=generator, dtype=torch.float64) for n, d in ((len(ids), 5), (sum(counts), 6))
    )
    ids = torch.tensor(ids)
    image_rows, text_rows = local_slices(counts)
    rest = {
        "image_id_B": ids[image_rows],
        "text_id_T": ids.repeat_interleave(torch.tensor(counts))[text_rows],
        "image_start": image_rows.start,
        "text_start": text_rows.start,
    }
    model, loss = Model(bias=config.kind == "siglip"), build_loss(config)

    def loss_of(image, text, scale, bias):
        local = Batch(image, text, **rest)
        return loss(local, gather(local), scale, bias)

    if way == "ddp":
        call = nn.parallel.DistributedDataParallel(model)  # kept until after the backward pass, for its hooks
        value = loss_of(*call(pixels[image_rows], tokens[text_rows]))
        (value * world_size()).backward()  # DDP takes the mean over processes
    elif way == "cached":
        value = grad_cache.backward(
            pixels[image_rows].split(2),
            tokens[text_rows].split(2),
            lambda inputs: model.encode("image", inputs),
            lambda inputs: model.encode("text", inputs),
            lambda image, text: loss_of(image, text, model.log_scale.exp(), model.bias),
        )
    else:
        value = loss_of(*model(pixels[image_rows], tokens[text_rows]))
        value.backward()
    if way != "ddp":
        sum_gradients(model.parameters())
    value = value.detach()
    if dist.is_initialized():
        dist.all_reduce(value)
    gradients = {name: param.grad.tolist() for name, param in model.named_parameters()}
    return {"loss": value.item(), "gradients": gradients}


# ---------------------------------------------------------------- in one process


def test_one_process_gathers_its_own_batch_and_sums_nothing():
    local = Batch(torch.ones(2, 3), torch.ones(3, 3), torch.arange(2), torch.tensor([0, 0, 1]))
    assert (world_size(), rank()) == (1, 0)
    assert gather(local) is local
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    sum_gradients([parameter, nn.Parameter(torch.ones(2))])
    assert parameter.grad.tolist() == [1.0, 2.0]


# ---------------------------------------------------------------- in several


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """results(world) -> the results of each process."""
    kept = {}

    def of(world):
        if world not in kept:
            kept[world] = run(world, tmp_path_factory.mktemp(f"world{world}"))
        return kept[world]

    return of


def run(world, folder):
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(number), str(world), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(world)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(errors)
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(world)]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_one_process(world, case, results):
    wanted = measure(*CASES[case], "sum")
    assert {"image.0.weight", "text.2.bias", "log_scale"} <= wanted["gradients"].keys()
    assert ("bias" in wanted["gradients"]) == case.startswith("siglip")
    for process in results(world):
        for way in WAYS[world]:
            got = process["cases"][case][way]
            assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-9), way
            assert got["gradients"].keys() == wanted["gradients"].keys()
            for name, gradient in wanted["gradients"].items():
                torch.testing.assert_close(
                    torch.tensor(got["gradients"][name], dtype=torch.float64),
                    torch.tensor(gradient, dtype=torch.float64),
                    rtol=1e-9,
                    atol=1e-14,
                    msg=lambda text, at=(way, name): f"{at}: {text}",
                )


@pytest.mark.parametrize("world", [2, 4])
def test_every_process_gets_all_rows_in_the_order_of_ranks(world, results):
    for number, process in enumerate(results(world)):
        ids = [10 * other + row for other in range(world) for row in range(other)]
        assert process["rows"]["image_id"] == process["rows"]["image"] == ids
        assert process["rows"]["text_id"] == process["rows"]["text"] == [i for i in ids for _ in range(2)]
        # Each process's loss is the sum of all rows, weighted by its rank plus one.
        assert process["rows"]["gradient"] == [sum(range(1, world + 1))] * number


@pytest.mark.parametrize("world", [2, 4])
def test_rows_that_overlap_stop_every_process(world, results):
    for process in results(world):
        assert "process 1 of" in process["overlap"] and "begin at image 0 and text 0" in process["overlap"]


@pytest.mark.parametrize("world", [2, 4])
def test_sums_of_gradients_that_only_some_have(world, results):
    total = sum(range(1, world + 1))
    for process in results(world):
        assert process["sums"] == {
            "everywhere": [[float(total)] * 3] * 2,
            "only_first": [1.0] * 40,
            "nowhere": None,
            "frozen": None,
            "bf16": [float(total)] * 2,
            "channels_last": True,
        }


# ---------------------------------------------------------------- what each process runs


def gathered_rows():
    """Gather from processes of which number n has n images with two texts each."""
    number = rank()
    ids = 10 * number + torch.arange(number)
    start = sum(range(number))
    image = ids[:, None].double().requires_grad_()
    text = ids.repeat_interleave(2)[:, None].double()
    full = gather(Batch(image, text, ids, ids.repeat_interleave(2), start, 2 * start))
    ((number + 1) * full.image_BD.sum()).backward()
    return {
        "image": full.image_BD.flatten().tolist(),
        "text": full.text_TD.flatten().tolist(),
        "image_id": full.image_id_B.tolist(),
        "text_id": full.text_id_T.tolist(),
        "gradient": image.grad.flatten().tolist(),
    }


def overlap():
    one = torch.ones(1, 1)
    try:
        gather(Batch(one, one, torch.arange(1), torch.arange(1)))
    except ValueError as error:
        return str(error)
    return "no error"


def sums():
    shapes = {"everywhere": (2, 3), "only_first": (40,), "nowhere": (4,), "frozen": (2,), "bf16": (2,)}
    named = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    named["bf16"] = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    named["frozen"].requires_grad_(False)
    named["channels_last"] = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    for name in ("everywhere", "bf16", "channels_last"):
        named[name].grad = torch.full_like(named[name], rank() + 1.0)
    if rank() == 0:
        named["only_first"].grad = torch.ones(40)
    sum_gradients(named.values())
    last = named.pop("channels_last").grad
    results = {name: param.grad if param.grad is None else param.grad.tolist() for name, param in named.items()}
    total = sum(range(1, world_size() + 1))
    equal = bool((last == total).all()) and last.is_contiguous(memory_format=torch.channels_last)
    return {**results, "channels_last": equal}


def main(number, world, folder):
    torch.set_num_threads(1)
    module.BUFFER_BYTES = 100  # several buffers even here
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=world, timeout=timedelta(seconds=60)
    )
    assert (rank(), world_size()) == (number, world)
    results = {"cases": {name: {way: measure(*case, way) for way in WAYS[world]} for name, case in CASES.items()}}
    if world > 1:
        results |= {"rows": gathered_rows(), "overlap": overlap(), "sums": sums()}
    (folder / f"{number}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
