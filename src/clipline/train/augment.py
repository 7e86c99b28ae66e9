"""Random changes to batches of images and captions, made on the device that holds them.

The random numbers are drawn on the CPU: a fixed count for each image, in the same order on any device and with any
settings. A restart therefore needs the state of one generator only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipline.config.augment import Augment
from clipline.data.prepared import Split
from clipline.model.device import send
from clipline.train.batches import Inputs

# Words that are wrong for a mirrored image, such as `left` or `right-hand`. Other meanings of `left` match too: the
# image is then not mirrored, which costs little.
SIDES = re.compile(r"\b(?:left|right)(?:hand(?:ed|er)?|most|wards?|side)?\b", re.IGNORECASE)
# Random numbers drawn for each image: crop 4, flip 1, brightness, contrast and saturation 3. Six more belonged to
# removed settings; they are still drawn, so that a seed goes on giving the same model.
RANDOMS = 14
# Images that a CPU changes at a time: so few stay in its cache, which halves the time.
CPU_BATCH = 8
# Weights of red, green and blue in a pixel's grey value: ITU-R BT.601, as in Pillow and torchvision.
GREY = (0.299, 0.587, 0.114)


class Augmentation:
    """Changes batches of one split as the settings say. `generator` holds all of its state.

    Where several processes share a batch, each draws the random numbers of the whole batch and takes those of its own
    rows: a sample changes alike for any number of processes, and all generators keep the same state. The methods then
    take `first`, the position of the local batch's first row in the whole batch, and `batch_rows`, the rows of the
    whole batch; the default is one process.
    """

    def __init__(self, config: Augment, split: Split, seed: int) -> None:
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)
        self._no_flip = torch.from_numpy(names_a_side(split))
        self._max_length = split.tokens.shape[1]
        # The shortest caption ends in padding, unless all captions are equally long: padding is then never needed.
        self._pad = int(split.tokens[split.lengths.argmin(), -1])

    @torch.no_grad()
    def images(self, pixels: Tensor, rows: np.ndarray, first: int = 0, batch_rows: int | None = None) -> Tensor:
        """Change the split's images `rows` (int64 [B]): uint8 [B, S, S, 3] -> uint8 [B, S, S, 3], on the same device.

        Cached features [B, F] are returned unchanged.
        """
        if pixels.ndim == 2 or not self.config.changes_images:
            return pixels
        random_BR = self._draw(RANDOMS, len(pixels), first, batch_rows)
        changes = draw_changes(self.config, random_BR, self._no_flip[torch.from_numpy(rows)])
        return change_images(pixels, changes, self.config)

    @torch.no_grad()
    def texts(self, inputs: Inputs, first: int = 0, batch_rows: int | None = None) -> Inputs:
        """Drop tokens: ids and mask, int64 [T, L] -> ids and mask, int64 [T, L].

        Cached features [T, F] are returned unchanged.
        """
        if not isinstance(inputs, tuple) or not self.config.word_dropout:
            return inputs
        ids_TL, mask_TL = inputs
        # Drawn for the longest caption of the split: the numbers must not depend on where this batch was cut.
        random_TL = self._draw(self._max_length, len(ids_TL), first, batch_rows)[:, : ids_TL.shape[1]]
        drop_TL = send(random_TL < self.config.word_dropout, ids_TL.device)
        return drop_tokens(ids_TL, mask_TL, drop_TL, self._pad)

    def _draw(self, count: int, rows: int, first: int, batch_rows: int | None) -> Tensor:
        """float32 [rows, count] on the CPU, each in [0, 1)."""
        return torch.rand(batch_rows or rows, count, generator=self.generator)[first : first + rows]


def names_a_side(split: Split) -> np.ndarray:
    """bool [n]: which images must not be mirrored, because a caption says left or right."""
    one_sided = np.zeros(len(split.image_rows), dtype=bool)
    matches = np.fromiter((SIDES.search(caption) is not None for caption in split.captions), bool, len(split.captions))
    one_sided[split.caption_image[matches]] = True
    return one_sided


def drop_tokens(ids_TL: Tensor, mask_TL: Tensor, drop_TL: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Leave out the tokens of `drop_TL` (bool [T, L]); ids and mask are int64 [T, L] before and after.

    The first and the last token of each text stay (start and end, where the tokenizer has them), so that no text is
    empty. The others move up to the left, and `pad` fills the rest. Source: word dropout, Iyyer et al., "Deep Unordered
    Composition Rivals Syntactic Methods for Text Classification", ACL 2015, section 4.
    """
    position_L = torch.arange(ids_TL.shape[1], device=ids_TL.device)
    last_T1 = mask_TL.sum(dim=1, keepdim=True) - 1
    keep_TL = ((position_L == 0) | (position_L == last_T1) | ~drop_TL) & (position_L <= last_T1)
    # False sorts before True, and a stable sort keeps the order of the kept tokens.
    order_TL = (~keep_TL).sort(dim=1, stable=True).indices
    kept_TL = position_L < keep_TL.sum(dim=1, keepdim=True)
    return ids_TL.gather(1, order_TL).where(kept_TL, pad), kept_TL.to(mask_TL.dtype)


# ---------------------------------------------------------------- images


class Changes(NamedTuple):
    """How each of B images changes; float32 tensors on one device.

    view_B4: centre x, centre y, half width and half height of the visible part, in an image from -1 to 1; a negative
    half width mirrors. light_B3: a, b and c of colour = a * colour + b * grey + c * mean grey.
    """

    view_B4: Tensor
    light_B3: Tensor


def draw_changes(config: Augment, random_BR: Tensor, no_flip_B: Tensor) -> Changes:
    """Turn random numbers, float32 [B, RANDOMS] in [0, 1), into changes. no_flip_B: bool, never mirrored."""
    crop_B4, flip_B1, factors_B3 = random_BR[:, :8].split([4, 1, 3], dim=1)
    crop = config.crop
    left, top, width, height = _boxes(crop_B4, crop.scale if crop else (1, 1), crop.ratio if crop else (1, 1))
    mirrored = (flip_B1[:, 0] < config.flip) & ~no_flip_B
    view = (2 * left + width - 1, 2 * top + height - 1, torch.where(mirrored, -width, width), height)
    return Changes(torch.stack(view, 1), _light(config, factors_B3))


def _boxes(random_B4: Tensor, area: list[float], ratio: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, width and height, each [B], of boxes in a square from 0 to 1.

    area: limits of the area, which is uniform. ratio: limits of width by height, which is log-uniform as far as the box
    fits (from the area to its inverse). So every box has its area, and none is drawn again.
    """
    area_B, ratio_B, x_B, y_B = random_B4.unbind(1)
    area_B = area[0] + (area[1] - area[0]) * area_B
    widest = -area_B.log()
    low, high = (widest.new_tensor(limit).log() for limit in ratio)
    low, high = torch.maximum(low, -widest), torch.minimum(high, widest)
    ratio_B = (low + (high - low) * ratio_B).exp()
    width, height = (area_B * ratio_B).sqrt().clamp(max=1), (area_B / ratio_B).sqrt().clamp(max=1)
    return (1 - width) * x_B, (1 - height) * y_B, width, height


def _light(config: Augment, random_B3: Tensor) -> Tensor:
    """light_B3 of Changes: brightness b, contrast c and saturation s, one after the other, as torchvision defines them.

    b c (s colour + (1 - s) grey) + b (1 - c) mean grey. Unlike in torchvision, values are clamped only at the end.
    """
    colour = config.colour
    strength = random_B3.new_tensor([colour.brightness, colour.contrast, colour.saturation])
    brightness, contrast, saturation = (1 + strength * (2 * random_B3 - 1)).unbind(1)
    both = brightness * contrast
    return torch.stack([both * saturation, both * (1 - saturation), brightness * (1 - contrast)], 1)


def change_images(pixels: Tensor, changes: Changes, config: Augment) -> Tensor:
    """uint8 [B, S, S, 3] on any device, and changes on the CPU -> uint8 [B, S, S, 3], contiguous.

    The result is uint8, not float: a quarter of the memory, and the dtype of validation, so that towers compile once.
    """
    # Joined, for one copy to the device.
    changes_BR = send(torch.cat(changes, 1), pixels.device)
    if pixels.device.type != "cpu":
        return _change(pixels, changes_BR, config)
    parts = zip(pixels.split(CPU_BATCH), changes_BR.split(CPU_BATCH), strict=True)
    return torch.cat([_change(some_pixels, some_changes, config) for some_pixels, some_changes in parts])


def _change(pixels: Tensor, changes_BR: Tensor, config: Augment) -> Tensor:
    view_B4, light_B3 = changes_BR.split([4, 3], dim=1)
    x_BCHW = pixels.permute(0, 3, 1, 2).float()
    if config.warps:
        x_BCHW = _warp(x_BCHW, view_B4)
    if config.colour.active:
        x_BCHW = _recolour(x_BCHW, light_B3)
    return x_BCHW.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _warp(x_BCHW: Tensor, view_B4: Tensor) -> Tensor:
    """Crop and mirror in one bilinear sampling. It needs no antialiasing, since a crop is only ever enlarged."""
    size = x_BCHW.shape[-1]
    x_B1, y_B1, half_width_B1, half_height_B1 = view_B4.split(1, dim=1)
    # Centres of pixels, from -1 to 1. Not by F.affine_grid, whose matrix product TF32 would make wrong by pixels.
    centres = (torch.arange(size, device=x_BCHW.device) * 2 + 1) / size - 1
    columns_BW, rows_BH = x_B1 + half_width_B1 * centres, y_B1 + half_height_B1 * centres
    shape = (len(x_BCHW), size, size)
    grid = torch.stack([columns_BW[:, None, :].expand(shape), rows_BH[:, :, None].expand(shape)], dim=-1)
    # border: half a pixel at the edges would otherwise be mixed with black.
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolour(x_BCHW: Tensor, light_B3: Tensor) -> Tensor:
    """Apply `light_B3` of Changes to x_BCHW, in place."""
    red, green, blue = x_BCHW.unbind(1)
    grey_BHW = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    of_colour, of_grey, of_mean = (factor_B[:, None, None] for factor_B in light_B3.unbind(1))
    rest_BHW = of_grey * grey_BHW + of_mean * grey_BHW.mean(dim=(1, 2), keepdim=True)
    return x_BCHW.mul_(of_colour[:, None]).add_(rest_BHW[:, None])
