"""Features of frozen towers, computed once and kept on disk.

A frozen tower gives the same features for the same pixels or tokens for ever: its output is cached under a
fingerprint of its weights and the data, so that neither a second epoch nor a second run computes it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipline.atomic import atomic
from clipline.data.prepared import Split
from clipline.model.clip import CLIP
from clipline.model.text_tower import trim
from clipline.progress import Bar

BATCH = 64


def image_batches(split: Split, rows: np.ndarray, size: int = BATCH) -> Iterator[Tensor]:
    """uint8 [b, S, S, 3] of the images `rows` (indices into the split), in order."""
    for start in range(0, len(rows), size):
        yield torch.from_numpy(split.images[split.image_rows[rows[start : start + size]]])


@torch.inference_mode()
def encode_images(encode: Callable[[Tensor], Tensor], split: Split, device: torch.device, title: str) -> np.ndarray:
    """`encode` over all images of the split: float32 [n, F]."""
    rows, out = np.arange(len(split.image_rows)), []
    with Bar(title, len(rows), "images") as bar:
        for pixels in image_batches(split, rows):
            out.append(encode(pixels.to(device)).float().cpu().numpy())
            bar.advance(len(pixels))
    return np.concatenate(out)


@torch.inference_mode()
def encode_texts(encode: Callable[..., Tensor], split: Split, device: torch.device, title: str) -> np.ndarray:
    """`encode` over all captions of the split: float32 [c, F]."""
    with Bar(title, len(split.captions), "captions") as bar:

        def one(rows: np.ndarray) -> np.ndarray:
            lengths = split.lengths[rows]
            ids, mask = trim(torch.from_numpy(split.tokens[rows]), torch.from_numpy(lengths), int(lengths.max()))
            bar.advance(len(rows))
            return encode(ids.to(device), mask.to(device)).float().cpu().numpy()

        return split.map_captions(one, BATCH)


def cached_features(
    model: CLIP, split: Split, data_fingerprint: str, cache: Path, device: torch.device
) -> dict[str, Tensor]:
    """The features of the frozen towers on `split`: `image` [n, F] and `text` [c, F], each only if frozen.

    cache: folder of the feature files, kept between runs.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Tensor] = {}
    for kind, tower, encode in (
        ("image", model.image_tower, encode_images),
        ("text", model.text_tower, encode_texts),
    ):
        if tower in model.frozen:
            config = getattr(model.recipe, kind).model_dump_json(exclude={"weights", "trainable"})
            key = fingerprint(tower, f"{config}/{data_fingerprint}/{split.name}")
            path = cache / f"{kind}-{split.name}-{key}.npy"
            if not path.exists():
                features = encode(tower, split, device, f"{kind} features, {split.name}")
                with atomic(path) as file:
                    np.save(file, features)
            found[kind] = torch.from_numpy(np.load(path)).to(device)
    return found


def fingerprint(tower: nn.Module, extra: str) -> str:
    """Hash of a tower's weights and of `extra`: 20 hexadecimal digits.

    extra: what else decides the features, such as the tower's settings (padding and heads have no weights).
    """
    digest = hashlib.sha256(extra.encode())
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()[:20]
