"""What the ranks of one training exchange: all embeddings, with gradient, and the sum of the parameters' gradients.

Each rank computes its part of the loss from its own rows against all rows (see `losses`). The parts add up to the loss
of the whole batch, and their gradients to its gradient. `sum_gradients` therefore sums over ranks and does not divide;
torch's DDP divides by the number of ranks, so that under DDP the part must be multiplied by `world_size`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from clipline.losses import Batch
from clipline.model.device import send

# Gradients are joined into buffers of about this size: few messages, and little memory beside the gradients.
BUFFER_BYTES = 64 << 20


def world_size() -> int:
    """The number of processes that train together; 1 if torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(local: Batch) -> Batch:
    """The rows of all ranks in the order of ranks, with gradient; `local` itself if there is one process.

    Ranks may have different numbers of rows, or none. Every rank must call it, and run its backward pass.
    Raises ValueError on every rank if the image_start or text_start of one does not follow from the rows before it.
    """
    if world_size() == 1:
        return local
    layout = _layout(local)
    images, texts = [rows[0] for rows in layout], [rows[1] for rows in layout]
    for number, (_, _, image_start, text_start) in enumerate(layout):
        if (image_start, text_start) != (sum(images[:number]), sum(texts[:number])):
            raise ValueError(
                f"process {number} of {len(layout)} has rows that begin at image {image_start} and text {text_start}; "
                f"the processes before it have {sum(images[:number])} images and {sum(texts[:number])} texts"
            )
    image_BD, text_TD = _Gather.apply(images, texts, local.image_BD, local.text_TD)
    return Batch(image_BD, text_TD, _all_rows(local.image_id_B, images), _all_rows(local.text_id_T, texts))


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its sum over ranks. Every rank must give the same parameters.

    A parameter without a gradient here gets the sum of the others; if no rank has one, it stays without.
    """
    if world_size() == 1:
        return
    groups: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = {}
    for param in parameters:
        if param.requires_grad:
            groups.setdefault((param.device, param.dtype), []).append(param)
    for group in groups.values():
        max_numel = max(1, BUFFER_BYTES // group[0].element_size())
        buffer: list[nn.Parameter] = []
        for param in group:
            if buffer and sum(queued.numel() for queued in buffer) + param.numel() > max_numel:
                _sum_together(buffer)
                buffer = []
            buffer.append(param)
        _sum_together(buffer)


class _Gather(torch.autograd.Function):
    """Gathers images and texts of all ranks; its backward pass sums the gradients of this rank's rows over all ranks.

    It is one function for both, so that all ranks run the two backward collectives in the same order.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, images: list[int], texts: list[int], image_BD: Tensor, text_TD: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.images, ctx.texts = images, texts
        return _all_rows(image_BD, images), _all_rows(text_TD, texts)

    @staticmethod
    def backward(ctx: FunctionCtx, image_BD: Tensor, text_TD: Tensor) -> tuple[None, None, Tensor, Tensor]:
        return None, None, _sum_local_rows(image_BD, ctx.images), _sum_local_rows(text_TD, ctx.texts)


def _layout(local: Batch) -> list[tuple[int, ...]]:
    """For each rank: number of images, number of texts, image_start, text_start."""
    values = (len(local.image_BD), len(local.text_TD), local.image_start, local.text_start)
    values_4 = torch.tensor(values, dtype=torch.int64, device=local.image_BD.device)
    gathered = values_4.new_empty(world_size() * len(values))
    dist.all_gather_into_tensor(gathered, values_4)
    return [tuple(row) for row in gathered.view(world_size(), len(values)).tolist()]


def _all_rows(local: Tensor, sizes: list[int]) -> Tensor:
    """The rows of all ranks, joined. Collectives need equal sizes: pad to the largest, and cut afterwards."""
    max_rows = max(sizes)
    padded = local.new_zeros(max_rows, *local.shape[1:])
    padded[: len(local)] = local
    gathered = local.new_empty(len(sizes) * max_rows, *local.shape[1:])
    dist.all_gather_into_tensor(gathered, padded)
    return torch.cat([part[:size] for part, size in zip(gathered.split(max_rows), sizes, strict=True)])


def _sum_local_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Of the rows of all ranks, this rank's own, summed over ranks."""
    max_rows = max(sizes)
    padded = rows.new_zeros(len(sizes), max_rows, *rows.shape[1:])
    for number, part in enumerate(rows.split(sizes)):
        padded[number, : len(part)] = part
    total = rows.new_empty(max_rows, *rows.shape[1:])
    dist.reduce_scatter_tensor(total, padded.flatten(0, 1))
    return total[: sizes[rank()]]


def _sum_together(parameters: list[nn.Parameter]) -> None:
    missing = [param.grad is None for param in parameters]
    gradients = [torch.zeros_like(param) if param.grad is None else param.grad for param in parameters]
    # The buffer ends with the number of ranks that have each gradient.
    present = send(torch.tensor([not absent for absent in missing], dtype=gradients[0].dtype), gradients[0].device)
    buffer = torch.cat([*(gradient.reshape(-1) for gradient in gradients), present])
    dist.all_reduce(buffer)
    *sums, present = buffer.split([*(gradient.numel() for gradient in gradients), len(gradients)])
    # Reading it synchronises with the GPU: only where a gradient is missing here.
    counts = present.tolist() if any(missing) else [1.0] * len(parameters)
    for param, total, count in zip(parameters, sums, counts, strict=True):
        if param.grad is not None:
            param.grad.copy_(total.view_as(param))
        elif count:
            param.grad = torch.empty_like(param).copy_(total.view_as(param))
