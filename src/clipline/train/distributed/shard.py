"""Large towers over several processes: each keeps a share of their weights, gradients and moments (FSDP2).

Each block of a tower gathers its weights from all processes when it computes, and gives them back; its gradients are
summed and shared out going backward. Heads, temperature and frozen towers stay whole. Source: torch's `fully_shard`;
ZeRO, arXiv 1910.02054.

Every call of a tower is a call of all processes: each must call each tower as often as the others do. What leaves
this package is whole again: files know of no shares.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm

from clipline.config.training import Train
from clipline.errors import UsageError
from clipline.model.clip import CLIP
from clipline.train.batches import Inputs
from clipline.train.distributed.gather import rank, world_size
from clipline.train.towers import Towers

# As torch.nn.utils.clip_grad_norm_ has it.
EPSILON = 1e-6


class EvenTowers(Towers):
    """Towers whose calls are as many in each process: captions are not cut into pieces by their length."""

    def _by_length(self, ids_TL: Tensor, mask_TL: Tensor) -> Tensor:
        return self._run(self.model.text_tower, ids_TL, mask_TL)


def share_out(model: CLIP, config: Train, device: torch.device) -> CLIP:
    """Leave each process its share of the trainable towers. Call it before anything holds their parameters.

    Returns a copy without weights, for those that come out in the end. Raises UsageError where a tower, or the
    recipe's settings, do not allow it.
    """
    if config.compile:
        raise UsageError("train.shard: a shared tower is not compiled. Fix: train.compile: false, or no train.shard")
    # Nobody writes into what a tower returns.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    shell = _without_weights(model)
    mesh = init_device_mesh(device.type, (world_size(),))
    for kind, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if tower in model.frozen:
            continue
        # Shares are rows of weights that lie in order.
        tower.to(memory_format=torch.contiguous_format)
        try:
            _share_out(tower, mesh)
        except (ValueError, NotImplementedError) as error:
            raise UsageError(f"train.shard: the {kind} tower cannot be shared out ({error})") from None
    return shell


def _share_out(tower: nn.Module, mesh: DeviceMesh) -> None:
    # The root too gives its weights back: outside of calls everything is a share.
    for module in (*blocks(tower), tower):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for module in tower.modules():
        if isinstance(module, FSDPModule):
            # The processes' losses add up to the whole batch's, and so do the gradients.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            # Buffers made in inference mode, as validation may be the first to call, could not be trained with.
            module.unshard()
            module.reshard()


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of a tower's lists of layers: transformer blocks, or a CNN's residual blocks; the outermost ones.

    Single layers are no blocks: each would have messages of its own.
    """
    lists = nn.ModuleList | nn.Sequential
    for child in module.children():
        composed = next(child.children(), None) is not None and next(child.parameters(), None) is not None
        if isinstance(module, lists) and not isinstance(child, lists) and composed:
            yield child
        else:
            yield from blocks(child)


def _without_weights(model: CLIP) -> CLIP:
    """A copy whose parameters are on the meta device; buffers are real."""
    weightless = {
        id(each): nn.Parameter(torch.empty_like(each, device="meta"), each.requires_grad) for each in model.parameters()
    }
    return copy.deepcopy(model, weightless)


# ---------------------------------------------------------------- chunks


def even_chunks(inputs: Inputs, size: int, most: int) -> Sequence[Inputs]:
    """Inputs in as many chunks of at most `size` rows as the process with the `most` rows needs.

    Where there are fewer rows than chunks, the last row is repeated: leave what comes of those rows out of the loss.
    """
    if isinstance(inputs, tuple):
        return list(zip(*(even_chunks(each, size, most) for each in inputs), strict=True))
    count = -(-most // size)
    missing = max(count - len(inputs), 0)
    return torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])]).tensor_split(count)


# ---------------------------------------------------------------- shares and whole tensors


def own(tensor: Tensor) -> Tensor:
    """What this process has of it: the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every process must call it; the first gets them whole, shares gathered on the CPU, and the others nothing."""
    found = {}
    for name, tensor in tensors.items():
        each = tensor.detach()
        if isinstance(each, DTensor):
            each = each.full_tensor()
            each = each.cpu() if not rank() else each
        if not rank():
            found[name] = each
    return found


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor as `model` is: this process's share of it if that is one, on its device, in its memory format."""
    if isinstance(model, DTensor):
        # No messages: every process has the whole one.
        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None)
    return torch.empty_like(model, requires_grad=False).copy_(tensor)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> None:
    """As clip_grad_norm_: the norm of all gradients together, of everyone's shares and of whole ones, is `most`."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    shares = [own(each) for each in gradients if isinstance(each, DTensor)]
    others = [each for each in gradients if not isinstance(each, DTensor)]
    square = get_total_norm(others).square()
    if shares:
        of_shares = get_total_norm(shares).square()
        dist.all_reduce(of_shares)
        square = square + of_shares
    torch._foreach_mul_([*shares, *others], (most / (square.sqrt() + EPSILON)).clamp(max=1.0))
