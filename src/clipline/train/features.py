"""Features of towers that learn nothing, or nothing yet, computed once and kept on disk.

A frozen tower gives the same features for the same pixels or tokens for ever: its output is cached under a
fingerprint of its weights, the data and the code, so that neither a second epoch nor a second run computes it again.
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
CODE = ("model", "train/features.py", "train/augment.py", "train/towers.py")


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


def cached_features(model: CLIP, split: Split, data: Prepared, cache: Path, device: torch.device) -> dict[str, Tensor]:
    """The features on a split of `data` of towers that learn nothing at first: `image` [n, F] and `text` [c, F].

    Of the training split's images, where the recipe asks for views, [n, 1 + views, F]: first of each as it is.
    cache: folder of the feature files, kept between runs.
    """
    cache.mkdir(parents=True, exist_ok=True)
    model.eval()  # a tower that only rests drops units in training
    with model.image_tower.one_side() if _learnt_from(split) else nullcontext():
        compute = {"image": _images, "text": _texts}
        return {kind: compute[kind](model, split, data, cache, device) for kind in sorted(resting(model, 1))}


def _images(model: CLIP, split: Split, data: Prepared, cache: Path, device: torch.device) -> Tensor:
    tower = in_precision(model.image_tower, model.recipe.train, device)
    encoders = {"": tower} | (_views(model.recipe.train, tower, split) if _learnt_from(split) else {})
    arrays = []
    for view, encoder in encoders.items():
        title = f"image features, {split.name}{', view ' * bool(view)}{view.split('/')[0]}"
        # Not of captions and tokens: another tokenizer changes nothing here.
        path = _path(model, "image", split, cache, device, f"{data.images_fingerprint}/{view}")
        arrays.append(_cached(path, partial(encode_images, encoder, split, device, title)))
    return torch.from_numpy(np.stack(arrays, axis=1) if len(arrays) > 1 else arrays[0]).to(device)


def _texts(model: CLIP, split: Split, data: Prepared, cache: Path, device: torch.device) -> Tensor:
    tower = in_precision(model.text_tower, model.recipe.train, device)
    path = _path(model, "text", split, cache, device, data.fingerprint)
    array = _cached(path, partial(encode_texts, tower, split, device, f"text features, {split.name}"))
    return torch.from_numpy(array).to(device)


def _learnt_from(split: Split) -> bool:
    """Whether heads learn from the split's features, which are then what the tower gives them in training.

    So of one side, whatever the finished model looks at, and of changed images too.
    """
    return split.name == "train"


def resting(model: CLIP, epoch: int) -> set[str]:
    """Whose features can come from the cache in `epoch` (from 1): of `image` and `text`, what is frozen or rests."""
    towers = {"image": model.image_tower, "text": model.text_tower}
    config = model.recipe.train
    return {kind for kind, tower in towers.items() if tower in model.frozen or config.is_frozen(kind, epoch)}


def _views(config: Train, encode: Callable[[Tensor], Tensor], split: Split) -> dict[str, Callable[[Tensor], Tensor]]:
    """Encoders of changed images, in the split's order: view v is what augmentation makes of them all from seed v.

    By a name that begins with v and holds all that decides what the images become.
    """
    if not config.views:
        return {}
    augment, starts = config.augment, range(0, len(split.image_rows), BATCH)

    def view(seed: int) -> Callable[[Tensor], Tensor]:
        changed = Augmentation(augment, split, seed)
        rows = iter([np.arange(len(split.image_rows))[start : start + BATCH] for start in starts])
        return lambda pixels: encode(changed.images(pixels, next(rows)))

    settings = augment.model_dump_json(include={"crop", "flip", "colour"})
    sides = hashlib.sha256(names_a_side(split)).hexdigest()
    return {f"{seed}/{settings}/{sides}": view(seed) for seed in range(config.views)}


def _path(model: CLIP, kind: str, split: Split, cache: Path, device: torch.device, data: str) -> Path:
    """The file of a tower's features: by its weights, its settings and precision, `data`, and the code."""
    ignored = {"weights", "trainable"} | ({"mirror"} if _learnt_from(split) else set())
    config = getattr(model.recipe, kind).model_dump_json(exclude=ignored)
    config += "/bf16" * in_bf16(model.recipe.train, device)
    tower = model.image_tower if kind == "image" else model.text_tower
    return cache / f"{kind}-{split.name}-{fingerprint(tower, f'{config}/{data}/{code_fingerprint(*CODE)}')}.npy"


def _cached(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The features in `path`, computed and written where there are none. Raises OSError where the disk refuses."""
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
    """Raises ValueError where the file does not end in the hash of what is before."""
    content = np.memmap(path, np.uint8, "r")
    if content[-HASH_BYTES:].tobytes() != _hash(content[:-HASH_BYTES]):
        raise ValueError("changed since it was written: its checksum differs")
    return np.load(path)


def _hash(content: np.ndarray) -> bytes:
    return hashlib.sha256(content).digest()


def fingerprint(tower: nn.Module, extra: str) -> str:
    """Hash of a tower's weights and of `extra`: 20 hexadecimal digits.

    extra: what else decides the features, such as the tower's settings (padding and heads have no weights).
    """
    digest = hashlib.sha256(extra.encode())
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()[:20]
