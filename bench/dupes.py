"""How well a threshold of `clipline dupes` tells changed copies of photos from other photos.

    python bench/dupes.py photos --model models/onnx --others flickr8k/Images

Copies of each photo are planted: resized, recompressed, mirrored, cropped, brightened. For each threshold: the percent
of copies of each kind whose similarity to the original reaches it, and the precision of all pairs: a pair is right if
both images come from one photo. Others are images without copies, which can be confused with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from command import launch
from PIL import Image, ImageEnhance, ImageOps
from rich.console import Console
from rich.table import Table

from clipline.dupes.similarity import unit
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.errors import UsageError
from clipline.image import open_rgb
from clipline.runtime.model import OnnxModel
from clipline.search.index import Index

THRESHOLDS = (0.8, 0.84, 0.88, 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.98)
MARK = "~"  # before the kind, in a copy's name
console = Console()


def _middle(share: float) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        x, y = (round(side * (1 - share) / 2) for side in image.size)
        return image.crop((x, y, image.width - x, image.height - y))

    return crop


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "160 high": lambda image: image.resize((image.width * 160 // image.height, 160), Image.Resampling.BICUBIC),
    "quality 30": lambda image: image,
    "mirrored": ImageOps.mirror,
    "middle 95%": _middle(0.95),
    "middle 90%": _middle(0.9),
    "middle 80%": _middle(0.8),
    "corner 85%": lambda image: image.crop((0, 0, image.width * 85 // 100, image.height * 85 // 100)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
}


def main(
    photos: Annotated[Path, typer.Argument(help="A folder of JPEG photos of full size.")],
    model: Annotated[Path, typer.Option(help="The exported model.")] = Path("models/onnx"),
    others: Annotated[Path | None, typer.Option(help="More images, of which no copies are planted.")] = None,
    planted: Annotated[int, typer.Option(help="Photos that get copies; the rest are others.")] = 100,
    max_others: Annotated[int, typer.Option(help="Others, at most.")] = 1000,
) -> None:
    """Plant copies, embed all, and print what each threshold finds."""
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        _plant(photos, others, images, planted, max_others)
        # As `clipline embed` does by default, stored in half precision.
        embed(Folder(images), OnnxModel(model, provider="cpu", bulk=True), Path(scratch) / "index", Options())
        index = Index(Path(scratch) / "index")
        _print(index.paths(range(len(index))), unit(index.vectors))


def _plant(photos: Path, others: Path | None, out: Path, planted: int, max_others: int) -> None:
    files = sorted(photos.glob("*.jpg"))
    if len(files) < 2:
        raise UsageError(f"{photos}: {len(files)} photos (*.jpg) in it")
    known = {file.name for file in files}
    more = [file for file in sorted(others.glob("*.jpg")) if file.name not in known][:max_others] if others else []
    for file in (*files, *more):
        (out / file.name).write_bytes(file.read_bytes())
    for file in files[:planted]:
        image = open_rgb(file)
        for kind, change in KINDS.items():
            quality = 30 if kind == "quality 30" else 85
            change(image).save(out / f"{file.stem}{MARK}{kind}.jpg", quality=quality)


def _print(paths: list[str], vectors: np.ndarray) -> None:
    names = [path.removesuffix(".jpg").partition(MARK) for path in paths]
    _, photo = np.unique([name for name, _, _ in names], return_inverse=True)
    original = {photo[row]: row for row, (_, _, kind) in enumerate(names) if not kind}
    alike = {
        kind: np.array(
            [vectors[row] @ vectors[original[photo[row]]] for row, name in enumerate(names) if name[2] == kind]
        )
        for kind in KINDS
    }
    above, below = np.triu_indices(len(vectors), 1)
    scores, right = (vectors @ vectors.T)[above, below], photo[above] == photo[below]
    table = Table("similarity from", *KINDS, "pairs", "wrong", "precision", title=f"{len(paths):,} images")
    for threshold in THRESHOLDS:
        above_threshold = scores >= threshold
        wrong = int((above_threshold & ~right).sum())
        shares = (f"{100 * (alike[kind] >= threshold).mean():.0f}%" for kind in KINDS)
        precision = f"{100 - 100 * wrong / max(int(above_threshold.sum()), 1):.2f}%"
        table.add_row(f"{threshold:g}", *shares, f"{int(above_threshold.sum()):,}", f"{wrong:,}", precision)
    console.print(table)


if __name__ == "__main__":
    launch(main)
