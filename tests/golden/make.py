"""Draw the inputs of tests/test_image.py's stored files and write what the preprocessing makes of them.

Run it only when the preprocessing is meant to change: python tests/golden/make.py
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clipline.image import Preprocess

HERE = Path(__file__).parent


def picture(mode: str) -> Image.Image:
    """A gradient with round and thin things on it, 96 x 72."""
    y, x = np.mgrid[0:72, 0:96]
    image = Image.fromarray(np.stack([x * 2, y * 3, 255 - x - y], axis=2).astype(np.uint8)).convert(mode)
    pen = ImageDraw.Draw(image)
    pen.ellipse((10, 8, 50, 48), fill=(230, 40, 40, 90) if mode == "RGBA" else (230, 40, 40))
    for step in range(0, 90, 6):
        pen.line((step, 70, step + 25, 40), fill=(20, 20, 20))
    return image


def main() -> None:
    """Write everything."""
    picture("RGB").save(HERE / "photo.jpg", quality=90)
    picture("RGBA").save(HERE / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("RGB").save(HERE / "turned.webp", quality=90, exif=exif)
    for name in ("photo.jpg", "alpha.png", "turned.webp"):
        for resize in ("shortest", "squash"):
            pixels, _ = Preprocess(32, resize).read(HERE / name)
            Image.fromarray(pixels).save(HERE / f"{Path(name).stem}.{resize}.png")


if __name__ == "__main__":
    main()
