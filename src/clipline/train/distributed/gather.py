"""What the processes of one training exchange: everyone's embeddings, with gradient, and the sum of gradients.

Each process computes its share of the loss from its own rows against everyone's (`losses`). The shares add up to the
loss of the whole batch, and the sums of their gradients are its gradients: to get them, sum over processes and divide
by nothing (`sum_gradients`; torch's DDP divides by the processes: multiply the share by `world_size` under it).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from clipline.losses import Batch
from clipline.model.device import send

# Gradients travel together in buffers of about this many bytes: few messages, and little memory beside the gradients.
BUFFER_BYTES = 64 << 20


def world_size() -> int:
    """How many processes train together; 1 where torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(own: Batch) -> Batch:
    """Everyone's rows in the order of ranks, with gradient; `own` itself where there is one process.

    Processes may have different numbers of rows, or none. Every process must call it, and go backward through it.
    Raises ValueError in every process where a process's image_start or text_start is not the rows of those before it.
    """
    if world_size() == 1:
        return own
    places = _places(own)
    images, texts = [place[0] for place in places], [place[1] for place in places]
    for number, (_, _, image_start, text_start) in enumerate(places):
        if (image_start, text_start) != (sum(images[:number]), sum(texts[:number])):
            raise ValueError(
                f"process {number} of {len(places)} says that its rows begin at image {image_start} and text "
                f"{text_start}; those before it have {sum(images[:number])} and {sum(texts[:number])}"
            )
    image_BD, text_TD = _Gather.apply(images, texts, own.image_BD, own.text_TD)
    return Batch(image_BD, text_TD, _all_rows(own.image_id_B, images), _all_rows(own.text_id_T, texts))


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each parameter's gradient becomes the sum over processes. Every process must give the same parameters.

    One that has no gradient here gets the others'; where nobody has one, it stays without.
    """
    if world_size() == 1:
        return
    waiting: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            waiting.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    for alike in waiting.values():
        size = max(1, BUFFER_BYTES // alike[0].element_size())
        while alike:
            count, taken = 0, []
            while alike and (not taken or count + alike[0].numel() <= size):
                taken.append(alike.pop(0))
                count += taken[-1].numel()
            _sum_together(taken)


class _Gather(torch.autograd.Function):
    """Everyone's images and texts; backward, the sum over processes of what they want of the own rows.

    One function for both, so that processes cannot differ in which of two goes backward first.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, images: list[int], texts: list[int], image_BD: Tensor, text_TD: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.images, ctx.texts = images, texts
        return _all_rows(image_BD, images), _all_rows(text_TD, texts)

    @staticmethod
    def backward(ctx: FunctionCtx, image_BD: Tensor, text_TD: Tensor) -> tuple[None, None, Tensor, Tensor]:
        return None, None, _own_rows(image_BD, ctx.images), _own_rows(text_TD, ctx.texts)


def _places(own: Batch) -> list[tuple[int, ...]]:
    """Of each process: images, texts, image_start, text_start."""
    place = (len(own.image_BD), len(own.text_TD), own.image_start, own.text_start)
    mine = torch.tensor(place, dtype=torch.int64, device=own.image_BD.device)
    found = mine.new_empty(world_size() * len(place))
    dist.all_gather_into_tensor(found, mine)
    return [tuple(each) for each in found.view(world_size(), len(place)).tolist()]


def _all_rows(own: Tensor, sizes: list[int]) -> Tensor:
    """Rows of every process, one behind another. Collectives want equal sizes: pad to the most, and cut again."""
    most = max(sizes)
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own
    found = own.new_empty(len(sizes) * most, *own.shape[1:])
    dist.all_gather_into_tensor(found, padded)
    return torch.cat([part[:size] for part, size in zip(found.split(most), sizes, strict=True)])


def _own_rows(everyone: Tensor, sizes: list[int]) -> Tensor:
    """The sum over processes of the rows that are this process's own."""
    most = max(sizes)
    padded = everyone.new_zeros(len(sizes), most, *everyone.shape[1:])
    for number, part in enumerate(everyone.split(sizes)):
        padded[number, : len(part)] = part
    found = everyone.new_empty(most, *everyone.shape[1:])
    dist.reduce_scatter_tensor(found, padded.flatten(0, 1))
    return found[: sizes[rank()]]


def _sum_together(parameters: list[nn.Parameter]) -> None:
    missing = [parameter.grad is None for parameter in parameters]
    flat = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    # Behind the gradients: how many processes have each.
    having = send(torch.tensor([not each for each in missing], dtype=flat[0].dtype), flat[0].device)
    buffer = torch.cat([*(each.reshape(-1) for each in flat), having])
    dist.all_reduce(buffer)
    *sums, having = buffer.split([*(each.numel() for each in flat), len(flat)])
    # Looked at only where one is missing here, since a look waits for the device.
    somewhere = having.tolist() if any(missing) else [1.0] * len(flat)
    for parameter, total, count in zip(parameters, sums, somewhere, strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(total.view_as(parameter))
        elif count:
            parameter.grad = torch.empty_like(parameter).copy_(total.view_as(parameter))
