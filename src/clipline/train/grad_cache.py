"""Gradient caching: the gradient of a batch beyond memory, for one more forward pass (GradCache, arXiv 2101.06983).

A contrastive loss needs all embeddings at once, but not all activations: embed the chunks without a graph, get the
loss's gradient at the embeddings, then embed each chunk again, with a graph, and send its part of that gradient back.
The second time a chunk drops the same units as the first, so the gradient is that of the same chunks in one graph.

Batch norm in training mode normalises each chunk by the chunk's own mean and variance: embeddings, loss and gradient
are those of chunks, not of one large batch. That is so in either pass, and in one graph of the same chunks too. Its
running statistics follow the chunks, and would do so twice: `backward` holds them still in the first pass. With
several processes each normalises its own chunks. `train.batch_norm: frozen` makes all of this indifferent: embeddings,
loss and gradient are those of the large batch, for chunks of any size. `synchronised` is refused with chunks: it waits
for the others in each, and they may have another number of them (`batch_norm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from clipline.train.state import random_state, set_random_state

Chunk = TypeVar("Chunk")
OtherChunk = TypeVar("OtherChunk")


def backward(
    image_chunks: Sequence[Chunk],
    text_chunks: Sequence[OtherChunk],
    encode_image: Callable[[Chunk], Tensor],
    encode_text: Callable[[OtherChunk], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    model: nn.Module | None = None,
) -> Tensor:
    """Add the gradient of `loss` over all chunks to the parameters' gradients; returns the loss, detached.

    encode_*: a chunk -> [n, D]. loss: images [B, D] and texts [T, D], in the order of the chunks -> scalar; it runs
    once, and its own parameters, such as the scale, get their gradient too.
    model: its buffers (batch norm's running statistics) stay as they are in the first pass. Give it where one of its
    modules keeps statistics in training.

    Random numbers go on from where one forward pass and the loss left them. Under autocast only `encode_*` runs in
    the lower precision: loss and gradients are computed without it.
    """
    with ExitStack() as stack:
        if model is not None:
            stack.enter_context(frozen_statistics(model))
        images, image_states = _embed(encode_image, image_chunks)
        texts, text_states = _embed(encode_text, text_chunks)
    image_BD, text_TD = torch.cat(images).requires_grad_(), torch.cat(texts).requires_grad_()
    with _no_autocast():
        value = loss(image_BD, text_TD)
        value.backward()
    after = random_state()
    _send_back(encode_image, image_chunks, image_states, _gradients(image_BD, images))
    _send_back(encode_text, text_chunks, text_states, _gradients(text_TD, texts))
    set_random_state(after)
    return value.detach()


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Whatever runs in the block, the buffers of `module` are afterwards what they were before.

    Batch norm still normalises by the batch in training mode; only its running mean, variance and count stay.
    """
    # By name, since a module may put another tensor in a buffer's place.
    kept = [
        (owner, name, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for owner, name, buffer in kept:
            # `data`: a graph made in the block stays valid, since in training it does not read the running statistics.
            getattr(owner, name).data.copy_(buffer)


@torch.no_grad()
def _embed(encode: Callable[[Chunk], Tensor], chunks: Sequence[Chunk]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Embeddings of each chunk, without a graph, and the random state that each began with."""
    found, states = [], []
    for chunk in chunks:
        states.append(random_state())
        found.append(encode(chunk))
    return found, states


def _gradients(whole: Tensor, chunks: list[Tensor]) -> Sequence[Tensor | None]:
    """The gradient at each chunk's embeddings; None where the loss does not depend on them."""
    if whole.grad is None:
        return [None] * len(chunks)
    return whole.grad.split([len(chunk) for chunk in chunks])


def _send_back(
    encode: Callable[[Chunk], Tensor],
    chunks: Sequence[Chunk],
    states: list[dict[str, Tensor]],
    gradients: Sequence[Tensor | None],
) -> None:
    for chunk, state, gradient in zip(chunks, states, gradients, strict=True):
        set_random_state(state)
        # Also where no gradient is wanted: batch norm's statistics follow this pass.
        found = encode(chunk)
        if gradient is not None and found.requires_grad:
            with _no_autocast():
                found.backward(gradient)


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Autocast off: it would also cast what a backward pass multiplies, and the loss needs float32."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
