"""The programs that bench/train.py measures, each in its own process.

Each function takes a Job and returns samples per second and other figures.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import Any

from train_models import SIZE, Job, open_clip_model, recipe, vocabulary

WARM_UP = 2


def ours(job: Job) -> dict[str, Any]:
    """clipline's training step on a split in memory.

    outside: the share of time outside forward, backward and optimiser. tflops and mfu: see `train.flops`.
    """
    import torch

    from clipline.model.clip import build_model
    from clipline.train.batches import Batches
    from clipline.train.flops import FlopCounter
    from clipline.train.phases import PhaseTimer
    from clipline.train.step import Step
    from clipline.utils.malloc import keep_freed_memory

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    device = torch.device(job.device)
    if device.type == "cpu":
        keep_freed_memory()  # as the training loop does
    chosen, split = recipe(job), _split(job)
    model = build_model(chosen, vocabulary(job.model)).to(device)
    features = {}
    if job.frozen:
        features["image"] = torch.rand(len(split.image_rows), model.image_tower.width, device=device)
    phases = PhaseTimer(device)
    batches = Batches(split, features, device)
    flops = FlopCounter(model, split, device)
    step = Step(model, chosen, batches, 1000, phases, seed=0)
    step.begin(1)
    rows = _rows(job, len(split.image_rows))
    for index in range(WARM_UP):
        step(rows[index], rows[index])
    phases.row()
    seconds = _timed(lambda index: step(rows[index], rows[index]), job)
    seconds_by_phase = phases.row()
    for index in range(WARM_UP, WARM_UP + job.steps):
        flops.add(rows[index], rows[index])
    inside = seconds_by_phase["seconds_forward_backward"] + seconds_by_phase["seconds_optimizer"]
    return {
        "rate": job.batch_size * job.steps / seconds,
        "outside": 1 - inside / sum(seconds_by_phase.values()),
        "phases": seconds_by_phase,
        **flops.row(1, seconds),
        **_gpu(job),
    }


def open_clip(job: Job) -> dict[str, Any]:
    """open_clip's model and loss, and the step of its training loop (open_clip_train/train.py)."""
    import open_clip as package
    import torch

    logging.disable(logging.WARNING)
    on_gpu = job.device == "cuda"
    if on_gpu:  # as open_clip_train/main.py begins
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    model = open_clip_model(job).to(job.device).train()
    if job.frozen:
        model.lock_image_tower()
    if job.compile:
        model = torch.compile(model, mode="reduce-overhead" if job.compile == "cuda_graphs" else None)
    loss_of = package.ClipLoss()
    optimizer = torch.optim.AdamW([param for param in model.parameters() if param.requires_grad], lr=1e-5)
    split = _split(job)
    rows = _rows(job, len(split.image_rows))
    # As from its loader: pixels are normalised floats, tokens are padded to one length, and a GPU gets pinned memory.
    images = torch.rand(job.batch_size, 3, SIZE, SIZE, pin_memory=on_gpu)
    tokens = [torch.from_numpy(split.tokens[batch]).long() for batch in rows]
    tokens = [ids.pin_memory() for ids in tokens] if on_gpu else tokens

    def step(index: int) -> None:
        pixels, ids = images.to(job.device, non_blocking=True), tokens[index].to(job.device, non_blocking=True)
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
    return {"rate": job.batch_size * job.steps / _timed(step, job), **_gpu(job)}


def _timed(step, job: Job) -> float:
    """Seconds of the steps after the warm-up."""
    import torch

    if job.device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for index in range(WARM_UP, WARM_UP + job.steps):
        step(index)
    if job.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _gpu(job: Job) -> dict[str, Any]:
    """The GPU's name and the peak of its memory in use, in bytes; empty for a CPU."""
    import torch

    if job.device != "cuda":
        return {}
    return {"gpu": torch.cuda.get_device_name(), "gpu_memory": torch.cuda.max_memory_allocated()}


def _split(job: Job):
    """Random pixels and tokens for all batches; all captions have the full length."""
    import numpy as np

    from clipline.data.prepared import Split

    count = (WARM_UP + job.steps) * job.batch_size if job.device == "cpu" else 4 * job.batch_size
    rng = np.random.default_rng(0)
    return Split(
        name="train",
        images=rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        image_rows=np.arange(count),
        image_names=[str(index) for index in range(count)],
        tokens=rng.integers(1, vocabulary(job.model), (count, job.tokens), np.int32),
        lengths=np.full(count, job.tokens, np.int32),
        captions=[""] * count,
        caption_image=np.arange(count),
    )


def _rows(job: Job, count: int) -> list:
    """The rows of each batch, int64 [batch_size], in a random order."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.permutation(count)[: job.batch_size] for _ in range(WARM_UP + job.steps)]
