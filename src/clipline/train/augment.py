"""Images and captions changed at random, a batch at a time, on the device that they are on.

What is random is drawn on the CPU: a few numbers for each image, the same ones in the same order on any device and
whatever the recipe asks for. One generator's state is then all that a restart needs.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN
from tokenizers import Tokenizer
from torch import Tensor

from clipline.config.augment import Augment
from clipline.data.prepared import Split
from clipline.model.device import send
from clipline.train.augment_text import drop_tokens, swap_table, swap_tokens
from clipline.train.batches import Inputs

# Words that a mirrored image would belie; `left-hand` begins with one. `left` is also what somebody did: an image too
# many that keeps its sides costs next to nothing.
SIDES = re.compile(r"\b(?:left|right)(?:hand(?:ed|er)?|most|wards?|side)?\b", re.IGNORECASE)
# What an image draws: its crop 4, flip 1, brightness, contrast and saturation 3, grey 1, erasing 1 and its box 4.
DRAWS = 14
# Width by height of an erased box: arXiv 1708.04896, section 4.1.
ERASE_RATIO = (0.3, 1 / 0.3)
# What an erased box is filled with: the mean colour of ImageNet, the paper's RE-M. Its noise would need as many random
# numbers as pixels.
FILL = [round(255 * mean) for mean in IMAGENET_DEFAULT_MEAN]
# Images that a CPU changes at once: what a few need stays in its cache, which halves the time.
PIECE = 8
# Grey of red, green and blue: ITU-R BT.601, as Pillow's and torchvision's.
GREY = (0.299, 0.587, 0.114)


class Augmentation:
    """Changes batches of `split` as `config` says. generator: its state is all the state there is.

    Rows may be those from `first` on of a batch of `total` that several processes share: each draws for the whole
    batch, so that it is changed alike however many they are, and all keep the same state.
    """

    def __init__(self, config: Augment, split: Split, seed: int, tokenizer: Tokenizer | None = None) -> None:
        """tokenizer: the one that made the split's tokens; `texts` needs it where `config` has synonyms.

        Raises UsageError where it knows none of the synonyms.
        """
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)
        self._no_flip = torch.from_numpy(names_a_side(split))
        self._longest = split.tokens.shape[1]
        # Behind the shortest caption stands padding, unless all fill their rows: then any token will do.
        self._pad = int(split.tokens[split.lengths.argmin(), -1])
        self._swaps = swap_table(config.synonyms.groups, tokenizer) if config.synonyms and tokenizer else None

    @torch.no_grad()
    def images(self, pixels: Tensor, rows: np.ndarray, first: int = 0, total: int | None = None) -> Tensor:
        """uint8 [B, S, S, 3] of the split's images `rows`, int64 [B] -> uint8 [B, S, S, 3], where it was.

        Features [B, F] of a frozen tower come back as they are.
        """
        if pixels.ndim == 2 or not self.config.images:
            return pixels
        random = self._draw(DRAWS, len(pixels), first, total)
        changes = draw_changes(self.config, random, self._no_flip[torch.from_numpy(rows)])
        return change_images(pixels, changes, self.config)

    @torch.no_grad()
    def texts(self, inputs: Inputs, first: int = 0, total: int | None = None) -> Inputs:
        """ids and mask, int64 [T, L] -> the same with other or fewer tokens; features [T, F] come back as they are."""
        if not isinstance(inputs, tuple) or not self.config.texts:
            return inputs
        ids_TL, mask_TL = inputs
        if self.config.synonyms:
            if self._swaps is None:
                raise ValueError("synonyms: give Augmentation the tokenizer")
            self._swaps = self._swaps.to(ids_TL.device)
            # Divided here: a GPU may round otherwise, and take another word.
            chance = self._draw_texts(ids_TL, first, total) / self.config.synonyms.probability
            ids_TL = swap_tokens(ids_TL, send(chance, ids_TL.device), self._swaps)
        if self.config.word_dropout:
            drop = self._draw_texts(ids_TL, first, total) < self.config.word_dropout
            ids_TL, mask_TL = drop_tokens(ids_TL, mask_TL, send(drop, ids_TL.device), self._pad)
        return ids_TL, mask_TL

    def _draw_texts(self, ids_TL: Tensor, first: int, total: int | None) -> Tensor:
        """float32 [T, L]. For the longest caption of all: what is drawn must not depend on how this batch was cut."""
        return self._draw(self._longest, len(ids_TL), first, total)[:, : ids_TL.shape[1]]

    def _draw(self, count: int, own: int, first: int, total: int | None) -> Tensor:
        """float32 [own, count], 0 to below 1, on the CPU."""
        return torch.rand(own if total is None else total, count, generator=self.generator)[first : first + own]


def names_a_side(split: Split) -> np.ndarray:
    """bool [n]: the images of the split that must not be mirrored, because a caption of theirs says left or right."""
    found = np.zeros(len(split.image_rows), dtype=bool)
    says = np.fromiter((SIDES.search(caption) is not None for caption in split.captions), bool, len(split.captions))
    found[split.caption_image[says]] = True
    return found


# ---------------------------------------------------------------- images


class Changes(NamedTuple):
    """What happens to each of B images; float32 on one device.

    view_B4: centre x, centre y, half width and half height of what is seen, in an image from -1 to 1; a negative half
    width mirrors. light_B3: colour = a * colour + b * grey + c * mean grey. box_B4: left, top, right and bottom of
    what is erased, in an image from 0 to 1; right = left where nothing is.
    """

    view_B4: Tensor
    light_B3: Tensor
    box_B4: Tensor


def draw_changes(config: Augment, random_BR: Tensor, no_flip_B: Tensor) -> Changes:
    """Random numbers float32 [B, DRAWS] in 0..1 -> changes. no_flip_B: bool, images that are never mirrored."""
    crop_B4, flip_B1, factors_B3, grey_B1, erase_B1, box_B4 = random_BR.split([4, 1, 3, 1, 1, 4], dim=1)
    crop = config.crop
    left, top, width, height = _boxes(crop_B4, crop.scale if crop else (1, 1), crop.ratio if crop else (1, 1))
    mirrored = (flip_B1[:, 0] < config.flip) & ~no_flip_B
    view = (2 * left + width - 1, 2 * top + height - 1, torch.where(mirrored, -width, width), height)
    light_B3 = _light(config, factors_B3, grey_B1[:, 0])
    erase = config.erase
    left, top, width, height = _boxes(box_B4, erase.area if erase else (1, 1), ERASE_RATIO)
    width = torch.where(erase_B1[:, 0] < (erase.probability if erase else 0.0), width, 0.0)
    return Changes(torch.stack(view, 1), light_B3, torch.stack([left, top, left + width, top + height], 1))


def _boxes(random_B4: Tensor, area: list[float], ratio: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """left, top, width and height, [B] each, of boxes in a square from 0 to 1.

    area: uniform between its limits. ratio: width by height, log-uniform between its limits as far as the box fits,
    which it does for ratios from the area to its inverse. So each box has its area, and none need be drawn again.
    """
    area_B, ratio_B, x_B, y_B = random_B4.unbind(1)
    area_B = area[0] + (area[1] - area[0]) * area_B
    widest = -area_B.log()
    low, high = (widest.new_tensor(limit).log() for limit in ratio)
    low, high = torch.maximum(low, -widest), torch.minimum(high, widest)
    ratio_B = (low + (high - low) * ratio_B).exp()
    width, height = (area_B * ratio_B).sqrt().clamp(max=1), (area_B / ratio_B).sqrt().clamp(max=1)
    return (1 - width) * x_B, (1 - height) * y_B, width, height


def _light(config: Augment, random_B3: Tensor, grey_B: Tensor) -> Tensor:
    """light_B3 of Changes: brightness b, contrast c and saturation s, one after the other, as torchvision defines them.

    b c (s colour + (1 - s) grey) + b (1 - c) mean grey. Unlike torchvision's, values are clamped only at the end.
    """
    colour = config.colour
    strength = random_B3.new_tensor([colour.brightness, colour.contrast, colour.saturation])
    brightness, contrast, saturation = (1 + strength * (2 * random_B3 - 1)).unbind(1)
    saturation = torch.where(grey_B < config.grey, 0.0, saturation)
    both = brightness * contrast
    return torch.stack([both * saturation, both * (1 - saturation), brightness * (1 - contrast)], 1)


def change_images(pixels: Tensor, changes: Changes, config: Augment) -> Tensor:
    """uint8 [B, S, S, 3] on any device, changes on the CPU -> uint8 [B, S, S, 3], contiguous.

    uint8, not float: a quarter of the memory, and towers get what validation gives them, compiled only once.
    """
    # One copy to the device for all of them.
    moved = send(torch.cat(changes, 1), pixels.device)
    if pixels.device.type != "cpu":
        return _change(pixels, moved, config)
    return torch.cat([_change(*each, config) for each in zip(pixels.split(PIECE), moved.split(PIECE), strict=True)])


def _change(pixels: Tensor, changes_BR: Tensor, config: Augment) -> Tensor:
    changes = Changes(*changes_BR.split([4, 3, 4], dim=1))
    if config.warps or config.recolours:
        x_BCHW = pixels.permute(0, 3, 1, 2).float()
        if config.warps:
            x_BCHW = _warp(x_BCHW, changes.view_B4)
        if config.recolours:
            x_BCHW = _recolour(x_BCHW, changes.light_B3)
        pixels = x_BCHW.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return _erase(pixels, changes.box_B4) if config.erase else pixels


def _warp(x_BCHW: Tensor, view_B4: Tensor) -> Tensor:
    """Crop and mirror in one bilinear sampling, which needs no antialias: what is seen is enlarged, never reduced."""
    size = x_BCHW.shape[-1]
    x_B1, y_B1, half_width_B1, half_height_B1 = view_B4.split(1, dim=1)
    # Centres of pixels, from -1 to 1. Not F.affine_grid: it multiplies matrices, which TF32 makes wrong by pixels.
    places = (torch.arange(size, device=x_BCHW.device) * 2 + 1) / size - 1
    columns_BW, rows_BH = x_B1 + half_width_B1 * places, y_B1 + half_height_B1 * places
    shape = (len(x_BCHW), size, size)
    grid = torch.stack([columns_BW[:, None, :].expand(shape), rows_BH[:, :, None].expand(shape)], dim=-1)
    # border: half a pixel at the edges would else be mixed with black.
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolour(x_BCHW: Tensor, light_B3: Tensor) -> Tensor:
    """In place."""
    red, green, blue = x_BCHW.unbind(1)
    grey_BHW = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    own, grey, mean = (each[:, None, None] for each in light_B3.unbind(1))
    rest_BHW = grey * grey_BHW + mean * grey_BHW.mean(dim=(1, 2), keepdim=True)
    return x_BCHW.mul_(own[:, None]).add_(rest_BHW[:, None])


def _erase(pixels: Tensor, box_B4: Tensor) -> Tensor:
    """A pixel goes where its centre is in the box. Rows as 3 S numbers in line: quicker than by threes."""
    size, device = pixels.shape[1], pixels.device
    places = (torch.arange(size, device=device) + 0.5) / size
    left, top, right, bottom = box_B4.split(1, dim=1)
    columns_BW, rows_BH = (places >= left) & (places < right), (places >= top) & (places < bottom)
    gone_BHR = rows_BH[:, :, None] & columns_BW.repeat_interleave(3, dim=1)[:, None, :]
    fill_R = send(torch.tensor(FILL, dtype=torch.uint8), device).repeat(size)
    return torch.where(gone_BHR, fill_R, pixels.flatten(2)).view_as(pixels)
