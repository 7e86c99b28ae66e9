"""The preprocessing, compared with a reference in numpy and with stored results, on every kind of image."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps, TiffImagePlugin

from clipline.image import MAX_PIXELS, ImageError, Preprocess, open_rgb
from clipline.utils.rgb import decode

GOLDEN = Path(__file__).parent / "golden"
CORNERS = {"red": (200, 20, 30), "green": (20, 180, 40), "blue": (30, 40, 210), "yellow": (230, 220, 30)}


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corners(width: int = 60, height: int = 40) -> Image.Image:
    """Quarters in red, green, blue and yellow: each rotation and flip of it is different."""
    image = Image.new("RGB", (width, height))
    for index, colour in enumerate(CORNERS.values()):
        x, y = index % 2 * (width // 2), index // 2 * (height // 2)
        image.paste(colour, (x, y, x + width // 2, y + height // 2))
    return image


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def bicubic(pixels: np.ndarray, target: int) -> np.ndarray:
    """uint8 [n, ...] -> uint8 [target, ...]: Keys' cubic (a = -0.5), stretched by the scale where it shrinks."""
    scale = len(pixels) / target
    stretch = max(1.0, scale)
    out = np.empty((target, *pixels.shape[1:]))
    for row in range(target):
        centre = (row + 0.5) * scale
        low, high = int(max(0, centre - 2 * stretch + 0.5)), int(min(len(pixels), centre + 2 * stretch + 0.5))
        x = np.abs((np.arange(low, high) + 0.5 - centre) / stretch)
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
        out[row] = np.tensordot(weights / weights.sum(), pixels[low:high].astype(float), 1)
    return np.clip(np.floor(out + 0.5), 0, 255).astype(np.uint8)


def reference(image: Image.Image, size: int, resize: str) -> np.ndarray:
    """The contract of preprocess.json in numpy: columns, then rows, then the crop; ties of rounding to even."""
    pixels, short = np.asarray(image), min(image.size)
    width, height = (size, size) if resize == "squash" else (round(side * size / short) for side in image.size)
    wide = bicubic(pixels.swapaxes(0, 1), width).swapaxes(0, 1)
    full = bicubic(wide, height)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return full[top : top + size, left : left + size]


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(50, 75), (75, 50), (16, 24), (10, 7), (33, 33), (31, 90), (3, 100), (100, 3), (40, 900), (900, 40)],
)
def test_equals_the_reference(height, width, resize):
    image = noise(height, width)
    actual = Preprocess(24, resize)(image)
    assert actual.shape == (24, 24, 3)
    assert actual.dtype == np.uint8
    # Pillow's weights are fixed-point: one step off in few places, two where both passes round apart.
    difference = np.abs(actual.astype(int) - reference(image, 24, resize))
    assert difference.max() <= 2
    assert difference.mean() < 0.02


def test_the_crop_offset_rounds_half_to_even():
    # 25 x 20 at 10: the long side 12.5 -> 12, the offset (12 - 10) / 2 = 1. 27 x 20: 13.5 -> 14, offset 2.
    for width, left in ((25, 1), (27, 2)):
        image = noise(20, width)
        resized = image.resize((round(width / 2), 10), Image.Resampling.BICUBIC)
        expected = np.asarray(resized)[:, left : left + 10]
        assert np.array_equal(Preprocess(10)(image), expected)
    # 23 x 10 at 10: offset 6.5 -> 6; 25 x 10: 7.5 -> 8.
    for width, left in ((23, 6), (25, 8)):
        image = noise(10, width)
        assert np.array_equal(Preprocess(10)(image), np.asarray(image)[:, left : left + 10])


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("name", ["photo.jpg", "turned.webp", "alpha.png"])
def test_stored_files(name, resize):
    pixels, size = Preprocess(32, resize).read(GOLDEN / name)
    assert size == ((72, 96) if name == "turned.webp" else (96, 72))
    expected = np.asarray(Image.open(GOLDEN / f"{Path(name).stem}.{resize}.png"))
    # Decoders of JPEG and WebP may differ by a step between versions.
    assert np.abs(pixels.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, kind):
    upright = corners()
    stored = upright
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 7: "TRANSVERSE"}
    undo |= {6: "ROTATE_90", 8: "ROTATE_270"}  # 6 means: rotate right to view, so it is stored rotated left
    if orientation in undo:
        stored = upright.transpose(Image.Transpose[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, size = Preprocess(20, "squash").read(encode(stored, kind, exif=exif))
    assert size == (60, 40)
    for colour, (y, x) in zip(CORNERS.values(), [(4, 4), (4, 15), (15, 4), (15, 15)], strict=True):
        assert np.abs(pixels[y, x].astype(int) - colour).max() <= 12, (orientation, y, x)


GREY = Image.linear_gradient("L").resize((30, 20))
TRANSPARENT = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
HALF = Image.new("RGBA", (30, 20), (0, 0, 0, 128))


def palette_with_transparency() -> bytes:
    image = Image.new("P", (30, 20), 0)
    image.putpalette([10, 200, 30, 0, 0, 0])
    image.paste(1, (0, 0, 30, 10))
    return encode(image, "PNG", transparency=1)


MODES = {
    "palette": (encode(corners().quantize(4), "PNG"), (2, 2), CORNERS["red"], 3),
    "palette, transparent top": (palette_with_transparency(), (2, 2), (255, 255, 255), 0),
    "palette, opaque bottom": (palette_with_transparency(), (17, 2), (10, 200, 30), 0),
    "cmyk": (encode(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG"), (5, 5), (255, 0, 0), 4),
    "16-bit": (encode(Image.new("I;16", (30, 20), 32896), "PNG"), (5, 5), (128,) * 3, 0),
    "16-bit white": (encode(Image.new("I;16", (30, 20), 65535), "TIFF"), (5, 5), (255,) * 3, 0),
    "float": (encode(Image.new("F", (30, 20), 77.4), "TIFF"), (5, 5), (77,) * 3, 0),
    "float of 0..1": (encode(Image.new("F", (30, 20), 0.5), "TIFF"), (5, 5), (128,) * 3, 1),
    "32-bit": (encode(Image.new("I", (30, 20), 99), "TIFF"), (5, 5), (99,) * 3, 0),
    "transparent": (encode(TRANSPARENT, "PNG"), (5, 5), (255,) * 3, 0),
    "half transparent": (encode(HALF, "PNG"), (5, 5), (127,) * 3, 1),
    "half transparent webp": (encode(HALF, "WEBP", lossless=True), (5, 5), (127,) * 3, 1),
    "grey with alpha": (encode(Image.new("LA", (30, 20), (0, 0)), "PNG"), (5, 5), (255,) * 3, 0),
    "grey": (encode(Image.new("L", (30, 20), 99), "JPEG"), (5, 5), (99,) * 3, 1),
    "one bit": (encode(Image.new("1", (30, 20), 1), "PNG"), (5, 5), (255,) * 3, 0),
    "rgb with a transparent colour": (
        encode(Image.new("RGB", (30, 20), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        (5, 5),
        (255,) * 3,
        0,
    ),
    "lab": (encode(Image.new("LAB", (30, 20), (255, 128, 128)), "TIFF"), (5, 5), (255,) * 3, 2),
    "avif": (encode(Image.new("RGB", (30, 20), (200, 20, 30)), "AVIF"), (5, 5), (200, 20, 30), 6),
    "bmp": (encode(corners(), "BMP"), (2, 2), CORNERS["red"], 0),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_become_rgb(name):
    data, (y, x), colour, tolerance = MODES[name]
    pixels, _ = Preprocess(20).read(data)
    assert np.abs(pixels[y, x].astype(int) - colour).max() <= tolerance, pixels[y, x]


def tiff(values: np.ndarray, **tags: int | float) -> bytes:
    """A grey TIFF that Pillow writes as it is; tags: by name, beside its own or instead of them."""
    more = {getattr(TiffImagePlugin, name.upper(), None) or SAMPLE_VALUES[name]: value for name, value in tags.items()}
    return encode(Image.fromarray(values), "TIFF", tiffinfo=more)


SAMPLE_VALUES = {"s_min_value": 340, "s_max_value": 341}
EIGHT_BITS = np.asarray(ImageOps.autocontrast(noise(40, 30).convert("L")))
SIGNED = tiff((EIGHT_BITS * np.uint32(0x01010101)).view(np.int32))
SAMPLE_FORMAT = struct.Struct("<HHIH")
RANGES = {
    "0..1": tiff(np.float32(EIGHT_BITS / 255)),
    "0..255": tiff(np.float32(EIGHT_BITS)),
    "0..65535": tiff(EIGHT_BITS * np.float32(257)),
    "negative": tiff(np.float32(EIGHT_BITS) - 100),
    "beyond 16 bits": tiff(EIGHT_BITS * np.float32(1e6)),
    "a small part of a range": tiff(np.float32(EIGHT_BITS / 100)),
    "not all finite": tiff(np.where(np.arange(30) < 29, EIGHT_BITS / np.float32(255), np.float32(np.inf))),
    "named by the file": tiff(np.float32(EIGHT_BITS / 5 - 7), s_min_value=-7.0, s_max_value=44.0),
    "32-bit integers of 0..255": tiff(np.int32(EIGHT_BITS)),
    "32-bit integers of 0..65535": tiff(np.int32(EIGHT_BITS) * 257),
    "unsigned 32-bit integers": SIGNED.replace(SAMPLE_FORMAT.pack(339, 3, 1, 2), SAMPLE_FORMAT.pack(339, 3, 1, 1)),
    "12 bits in 16": tiff(np.uint16(EIGHT_BITS * 16.0)),
    "8 bits in 16": tiff(np.uint16(EIGHT_BITS)),
    "16 bits": tiff(EIGHT_BITS * np.uint16(257)),
    "white is zero": tiff((255 - EIGHT_BITS) * np.uint16(257), photometric_interpretation=0),
    "white is zero, float": tiff(np.float32(1 - EIGHT_BITS / 255), photometric_interpretation=0),
    "PGM": encode(Image.fromarray(EIGHT_BITS * np.uint16(257)), "PPM"),
}  # fmt: skip


@pytest.mark.parametrize("name", RANGES)
def test_the_same_grey_in_any_range_of_values(name):
    """Within a step of the same picture in 8 bits, which has black and white; never black."""
    assert (EIGHT_BITS.min(), EIGHT_BITS.max()) == (0, 255)
    difference = np.asarray(open_rgb(RANGES[name])).astype(int) - EIGHT_BITS[..., np.newaxis]
    assert np.abs(difference[:, :29]).max() <= 3


def test_even_greys_and_known_ranges_are_not_stretched():
    for values, expected in [
        (np.full((9, 9), 300, np.uint16), 1),
        (np.full((9, 9), 3, np.float32), 3),
        (np.zeros((9, 9), np.float32), 0),
        (np.linspace(0, 5000, 81, dtype=np.uint16).reshape(9, 9), 19),
        (np.full((9, 9), -3, np.float32), 127),
    ]:
        assert np.asarray(open_rgb(tiff(values))).max() == expected
    dark = Image.fromarray(np.arange(81, dtype=np.uint16).reshape(9, 9))
    assert np.asarray(open_rgb(encode(dark, "PPM"))).max() == 0, "PGM has 65,535 for white"


def test_rgb_before_resizing():
    """Resizing palette indices would invent colours between neighbours of the palette."""
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 0])
    image.paste(2, (20, 0, 40, 40))
    assert Preprocess(10).read(encode(image, "PNG"))[0].max() == 0


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = Preprocess(8).read(data)[0][4, 4]
        assert red > 200
        assert blue < 60


def test_one_pixel():
    pixels, size = Preprocess(16).read(encode(Image.new("RGB", (1, 1), (7, 8, 9)), "PNG"))
    assert size == (1, 1)
    assert np.array_equal(pixels, np.full((16, 16, 3), (7, 8, 9)))


def test_a_long_panorama_takes_little_memory():
    """65,000 x 2 at 224 would be 7.3 million columns: 5 GB. Runs in a process with a limit of 2 GB."""
    program = (
        "import resource; from PIL import Image; from clipline.image import Preprocess\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "for size in ((65000, 2), (2, 65000)):\n"
        "    assert Preprocess(224)(Image.new('RGB', size, (1, 2, 3))).tolist()[5][7] == [1, 2, 3]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


PHOTO = encode(noise(64, 64), "JPEG")
BAD = {
    "truncated jpeg": (PHOTO[: len(PHOTO) // 2], "truncated"),
    "truncated png": (encode(noise(64, 64), "PNG")[:4000], "cannot decode"),
    "truncated gif": (encode(noise(64, 64).quantize(), "GIF")[:2500], "truncated"),
    "text": (b"this is no image\n" * 9, "not an image"),
    "zero bytes": (b"", "empty file"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "Pillow does not read HEIC: convert it to JPEG"),
    "not finite": (encode(Image.new("F", (30, 20), float("nan")), "TIFF"), "none of its values is a finite number"),
    "only a header": (PHOTO[:20], "not an image|cannot decode"),
    "broken avif": (encode(corners(), "AVIF").replace(b"av01", b"av0\x00"), "not an image|cannot decode"),
}


WAYS_OF_JPEG = (
    {},
    {"quality": 30},
    {"progressive": True},
    {"optimize": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 2},
    {"subsampling": 0, "quality": 95},
)


@pytest.mark.parametrize("options", WAYS_OF_JPEG, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_mark_is_complete_and_lost_rows_are_an_error(mode, options):
    for image in (noise(70, 90), noise(70, 90).filter(ImageFilter.GaussianBlur(5)), corners(64, 64)):
        data = encode(image.convert(mode), "JPEG", **options)
        complete = np.asarray(open_rgb(data))
        for cut in (1, 2):
            assert np.array_equal(open_rgb(data[:-cut]), complete)
        for cut in (150, 250):
            with pytest.raises(ImageError, match=r"truncated|broken|cannot decode|not an image"):
                open_rgb(data[: max(9, len(data) - cut)])


def test_a_jpeg_without_its_end_mark_wherever_it_comes_from(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(encode(noise(40, 60), "JPEG", exif=exif)[:-2])
    pixels, size = Preprocess(20).read(path)
    assert size == (40, 60)
    with Image.open(path) as opened:
        assert np.array_equal(Preprocess(20)(decode(opened)), pixels)


@pytest.mark.parametrize("name", BAD)
def test_damage_is_one_error_with_the_reason(name, tmp_path):
    data, reason = BAD[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(ImageError, match=reason):
            open_rgb(source)


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        open_rgb(tmp_path / "none.jpg")


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side):
    """A PNG of few bytes that claims an absurd size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    assert side * side > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="pixels"):
        open_rgb(data)


@pytest.mark.filterwarnings("ignore::Warning:PIL")
def test_random_damage_never_raises_anything_else():
    """Bytes changed at random in eight kinds of file; the seed is fixed."""
    rng = np.random.default_rng(7)
    image = noise(24, 32)
    kinds = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "ICO")
    outcomes = set()
    for kind in kinds:
        original = encode(ImageOps.posterize(image, 3), kind)
        for _ in range(120):
            data = bytearray(original)
            for _ in range(int(rng.integers(1, 12))):
                data[int(rng.integers(len(data) if rng.random() < 0.5 else min(200, len(data))))] = int(
                    rng.integers(256)
                )
            try:
                pixels, _ = Preprocess(8).read(bytes(data[: int(rng.integers(1, len(data) + 1))]))
                outcomes.add(pixels.shape)
            except ImageError:
                outcomes.add("error")
    assert outcomes == {(8, 8, 3), "error"}
