"""Features of towers that are frozen, for good or at first, computed once and cached on disk.

A frozen tower always gives the same features for the same pixels or tokens. They are cached under a fingerprint of its
weights, the data and the code, so that neither a second epoch nor a second run computes them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipline.config.training import Train
from clipline.data.prepared import Prepared, Split
from clipline.model.clip import CLIP
from clipline.train.augment import Augmentation, names_a_side
from clipline.train.batches import trim
from clipline.train.towers import in_bf16, in_precision
from clipline.utils.files import atomic
from clipline.utils.progress import Bar, note
from clipline.utils.revision import code_fingerprint

BATCH = 64
HASH_BYTES = 32
# The code that decides features, below src/clipline.
CODE = ("model", "train/features.py", "train/augment.py", "train/towers.py")


def frozen_towers(model: CLIP, epoch: int) -> set[str]:
    """The towers, `image` and `text`, that are frozen as a whole in `epoch` (from 1): their features are cached."""
    towers = {"image": model.image_tower, "text": model.text_tower}
    config = model.recipe.train
    return {kind for kind, tower in towers.items() if tower in model.frozen or config.is_frozen(kind, epoch)}


@torch.inference_mode()
def encode_images(encode: Callable[[Tensor], Tensor], split: Split, device: torch.device, title: str) -> np.ndarray:
    """Run `encode` on all n images of the split: float32 [n, F]. title: of the progress bar."""
    features = []
    with Bar(title, len(split.image_rows), "images") as bar:
        for rows in _batches(split):
            pixels = torch.from_numpy(split.images[split.image_rows[rows]])
            features.append(encode(pixels.to(device)).float().cpu().numpy())
            bar.advance(len(pixels))
    return np.concatenate(features)


def _batches(split: Split) -> Iterator[np.ndarray]:
    """The split's image rows in order, int64 [b] at a time."""
    rows = np.arange(len(split.image_rows))
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


@torch.inference_mode()
def encode_texts(encode: Callable[..., Tensor], split: Split, device: torch.device, title: str) -> np.ndarray:
    """Run `encode` on all c captions of the split: float32 [c, F]. title: of the progress bar."""
    with Bar(title, len(split.captions), "captions") as bar:

        def encode_rows(rows: np.ndarray) -> np.ndarray:
            lengths = split.lengths[rows]
            ids, mask = trim(torch.from_numpy(split.tokens[rows]), torch.from_numpy(lengths), int(lengths.max()))
            bar.advance(len(rows))
            return encode(ids.to(device), mask.to(device)).float().cpu().numpy()

        return split.map_captions(encode_rows, BATCH)


def cached_features(model: CLIP, split: Split, data: Prepared, cache: Path, device: torch.device) -> dict[str, Tensor]:
    """The features on a split of `data` of the towers that are frozen in the first epoch, on `device`.

    `image` is float32 [n, F], and `text` is float32 [c, F]. With `train.views`, `image` of the training split is
    [n, 1 + views, F], and the first view is of the unchanged image.
    cache: the folder of the feature files, kept between runs.
    """
    cache.mkdir(parents=True, exist_ok=True)
    model.eval()  # towers that are frozen at first would otherwise drop units
    with model.image_tower.one_side() if _trains_heads(split) else nullcontext():
        compute = {"image": _images, "text": _texts}
        return {kind: compute[kind](model, split, data, cache, device) for kind in sorted(frozen_towers(model, 1))}


def _images(model: CLIP, split: Split, data: Prepared, cache: Path, device: torch.device) -> Tensor:
    tower = in_precision(model.image_tower, model.recipe.train, device)
    encoders = {"": tower} | (_views(model.recipe.train, tower, split) if _trains_heads(split) else {})
    arrays = []
    for view, encode in encoders.items():
        title = f"image features, {split.name}{', view ' * bool(view)}{view.split('/')[0]}"
        # By the fingerprint of images only: another tokenizer changes nothing here.
        path = _path(model, "image", split, cache, device, f"{data.images_fingerprint}/{view}")
        arrays.append(_cached(path, partial(encode_images, encode, split, device, title)))
    return torch.from_numpy(np.stack(arrays, axis=1) if len(arrays) > 1 else arrays[0]).to(device)


def _texts(model: CLIP, split: Split, data: Prepared, cache: Path, device: torch.device) -> Tensor:
    tower = in_precision(model.text_tower, model.recipe.train, device)
    path = _path(model, "text", split, cache, device, data.fingerprint)
    array = _cached(path, partial(encode_texts, tower, split, device, f"text features, {split.name}"))
    return torch.from_numpy(array).to(device)


def _trains_heads(split: Split) -> bool:
    """Whether heads are trained on the split's features, which must then be those of a tower in training.

    So they are of one side of the image, even if the finished model averages both sides, and of changed images too.
    """
    return split.name == "train"


def _views(config: Train, encode: Callable[[Tensor], Tensor], split: Split) -> dict[str, Callable[[Tensor], Tensor]]:
    """Encoders of changed images, for the split's order: view v is what augmentation with seed v makes of the images.

    A key begins with v and holds all that decides the changes.
    """
    if not config.views:
        return {}

    def view(seed: int) -> Callable[[Tensor], Tensor]:
        augmentation, rows = Augmentation(config.augment, split, seed), _batches(split)
        return lambda pixels: encode(augmentation.images(pixels, next(rows)))

    settings = config.augment.model_dump_json(include={"crop", "flip", "colour"})
    sides = hashlib.sha256(names_a_side(split)).hexdigest()
    return {f"{seed}/{settings}/{sides}": view(seed) for seed in range(config.views)}


def _path(model: CLIP, kind: str, split: Split, cache: Path, device: torch.device, data: str) -> Path:
    """The file of a tower's features, named by its weights, its settings and precision, `data`, and the code."""
    ignored = {"weights", "trainable"} | ({"mirror"} if _trains_heads(split) else set())
    config = getattr(model.recipe, kind).model_dump_json(exclude=ignored)
    config += "/bf16" * in_bf16(model.recipe.train, device)
    tower = model.image_tower if kind == "image" else model.text_tower
    return cache / f"{kind}-{split.name}-{fingerprint(tower, f'{config}/{data}/{code_fingerprint(*CODE)}')}.npy"


def _cached(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The features in `path`, computed and written if it does not exist. Raises OSError if they cannot be written."""
    if path.exists():
        try:
            return _read(path)
        except ValueError as error:
            note(f"{path}: damaged ({error}); computed again")
    features = compute()
    with atomic(path) as file:
        np.save(file, features)
        file.flush()
        file.write(_hash(np.memmap(file.name, np.uint8, "r")))
    return features


def _read(path: Path) -> np.ndarray:
    """Raises ValueError if the file does not end in the hash of what precedes it."""
    content = np.memmap(path, np.uint8, "r")
    if content[-HASH_BYTES:].tobytes() != _hash(content[:-HASH_BYTES]):
        raise ValueError("changed since it was written: its checksum differs")
    return np.load(path)


def _hash(content: np.ndarray) -> bytes:
    return hashlib.sha256(content).digest()


def fingerprint(tower: nn.Module, extra: str) -> str:
    """A hash of a tower's weights and of `extra`: 20 hexadecimal digits.

    extra: what else decides the features, such as settings without weights (padding, the number of heads).
    """
    digest = hashlib.sha256(extra.encode())
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()[:20]
