"""What bench/train.py measures, each in a process of its own. Each takes a Job and returns samples per second."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "recipe" / "clip_finetune.yaml"
VOCABULARY = 49408
# Width and layers of the two towers; both are CLIP's ViT-B/32, but for `tiny`.
SHAPES = {"vit_b_32": ((768, 12), (512, 12)), "tiny": ((64, 2), (64, 2))}
# A head of a transformer is so wide, in both towers.
HEAD = {"vit_b_32": 64, "tiny": 32}
SIZE, PATCH, DIM = 224, 32, 512
WARM_UP = 2


@dataclass(frozen=True)
class Job:
    """frozen: the image tower is locked. compile: torch.compile the towers."""

    model: str
    device: str
    batch_size: int
    tokens: int
    steps: int
    precision: str
    threads: int
    compile: bool
    frozen: bool

    def settings(self) -> dict[str, Any]:
        """For the results."""
        return {key: value for key, value in asdict(self).items() if key != "frozen"}


def ours(job: Job) -> dict[str, Any]:
    """clipline's own step, on a split in memory. outside: the share of time in no forward, backward or optimiser."""
    import torch

    from clipline.heap import keep_freed_memory
    from clipline.model.clip import build_model
    from clipline.train.batches import Batches
    from clipline.train.phases import Phases
    from clipline.train.step import Step

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    device = torch.device(job.device)
    if device.type == "cpu":
        keep_freed_memory()  # as the training loop does
    recipe, split = _recipe(job), _split(job)
    model = build_model(recipe, VOCABULARY).to(device)
    features = {}
    if job.frozen:
        features["image"] = torch.rand(len(split.image_rows), model.image_tower.width, device=device)
    phases = Phases(device)
    step = Step(model, recipe, Batches(split, features, device), 1000, phases, seed=0)
    step.begin(1)
    rows = _rows(job, len(split.image_rows))
    for index in range(WARM_UP):
        step(rows[index], rows[index])
    phases.row()
    seconds = _timed(lambda index: step(rows[index], rows[index]), job)
    spent = phases.row()
    inside = spent["seconds_forward_backward"] + spent["seconds_optimizer"]
    return {"rate": job.batch_size * job.steps / seconds, "outside": 1 - inside / sum(spent.values()), "phases": spent}


def open_clip(job: Job) -> dict[str, Any]:
    """open_clip's model, loss and step, as its training loop does it (open_clip_train/train.py)."""
    import open_clip as package
    import torch

    logging.disable(logging.WARNING)
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    (image_width, image_layers), (text_width, text_layers) = SHAPES[job.model]
    head = HEAD[job.model]
    vision = {"image_size": SIZE, "layers": image_layers, "width": image_width, "patch_size": PATCH, "head_width": head}
    text = {
        "context_length": job.tokens,
        "vocab_size": VOCABULARY,
        "width": text_width,
        "heads": text_width // head,
        "layers": text_layers,
    }
    model = package.model.CLIP(DIM, vision, text, output_dict=True).to(job.device).train()
    if job.frozen:
        model.lock_image_tower()
    if job.compile:
        model = torch.compile(model)
    loss_of = package.ClipLoss()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-5)
    split = _split(job)
    rows = _rows(job, len(split.image_rows))
    # Behind its loader pixels are normalised floats, and tokens padded to one length.
    images = torch.rand(job.batch_size, 3, SIZE, SIZE)
    tokens = torch.from_numpy(split.tokens).long()

    def step(index: int) -> None:
        pixels, ids = images.to(job.device, non_blocking=True), tokens[rows[index]].to(job.device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(job.device, torch.bfloat16) if job.precision == "bf16" else nullcontext():
            loss = loss_of(**model(pixels, ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=2.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)

    for index in range(WARM_UP):
        step(index)
    return {"rate": job.batch_size * job.steps / _timed(step, job)}


def _timed(step, job: Job) -> float:
    """Seconds of the steps behind the warm-up."""
    import torch

    if job.device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for index in range(WARM_UP, WARM_UP + job.steps):
        step(index)
    if job.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _recipe(job: Job):
    from clipline.config.base import read_yaml, validate
    from clipline.config.recipe import Recipe

    (image_width, image_layers), (text_width, text_layers) = SHAPES[job.model]
    head = HEAD[job.model]
    values = read_yaml(RECIPE)
    values["inputs"] |= {"max_length": job.tokens, "tokenizer": {"kind": "wordpiece", "vocab_size": VOCABULARY}}
    sizes = {"embed_dim": image_width, "depth": image_layers, "num_heads": image_width // head}
    values["image"] |= {"weights": "random", "trainable": not job.frozen, "args": sizes, "normalize": "clip"}
    values["text"] |= {
        "weights": "random",
        "args": {
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": text_width // head,
            "max_position_embeddings": job.tokens,
            "projection_dim": DIM,
        },
    }
    values["train"] |= {"batch_size": job.batch_size, "precision": job.precision, "compile": job.compile}
    return validate(Recipe, values, str(RECIPE))


def _split(job: Job):
    """Random pixels and tokens for all batches, each caption of full length."""
    import numpy as np

    from clipline.data.prepared import Split

    count = (WARM_UP + job.steps) * job.batch_size if job.device == "cpu" else 4 * job.batch_size
    dice = np.random.default_rng(0)
    return Split(
        name="train",
        images=dice.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        image_rows=np.arange(count),
        image_names=[str(index) for index in range(count)],
        tokens=dice.integers(0, VOCABULARY, (count, job.tokens), np.int32),
        lengths=np.full(count, job.tokens, np.int32),
        captions=[""] * count,
        caption_image=np.arange(count),
    )


def _rows(job: Job, count: int) -> list:
    """Rows of each batch, in a random order."""
    import numpy as np

    dice = np.random.default_rng(0)
    return [dice.permutation(count)[: job.batch_size] for _ in range(WARM_UP + job.steps)]
