"""Files that Pillow opens but are no photos, and malicious images: each gives a reason or an embedding."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipline import image as module
from clipline.cli import app
from clipline.image import FORMATS, ImageError, Preprocess, open_rgb
from clipline.utils import rgb

RED = (200, 20, 30)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(colour=RED, size=(40, 30), mode="RGB") -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, colour: int = 2, extra: bytes = b"", bits: int = 8) -> bytes:
    """A PNG of any size, bits and colour type; rows: what its compressed data hold. extra: chunks before these."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + head + extra + data + chunk(b"IEND", b"")


def exif(data: bytes) -> bytes:
    """A JPEG with these bytes for EXIF."""
    photo, body = encode(plain(), "JPEG"), b"Exif\0\0" + data
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + photo[2:]


def tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF with one folder of tags {tag: (type, count, value)}; the data begin at byte 8."""
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiff_grey(width: int, height: int, rows: int, count: int, **more) -> bytes:
    """An 8-bit grey TIFF that claims strips of `rows` rows and `count` bytes."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, rows), 279: (4, 1, count)}
    return tiff(tags | {int(tag[1:]): value for tag, value in more.items()}, bytes(range(100)))


TURNED = Image.Exif()
TURNED[0x0112] = 6
# Odd but valid images: name -> bytes, and the colour in the middle.
PICTURES = {
    "animated.gif": (encode(plain(), "GIF", save_all=True, append_images=[plain((0, 0, 255))]), RED),
    "animated.webp": (encode(plain(), "WEBP", save_all=True, append_images=[plain((0, 0, 255))], lossless=True), RED),
    "animated.png": (encode(plain(), "PNG", save_all=True, append_images=[plain((0, 0, 255))]), RED),
    "pages.tiff": (encode(plain(), "TIFF", save_all=True, append_images=[plain((0, 0, 255))] * 3), RED),
    "two.mpo": (encode(plain(), "MPO", save_all=True, append_images=[plain((0, 0, 255))]), RED),
    "cmyk.tiff": (encode(plain(mode="CMYK"), "TIFF"), RED),
    "alpha-palette.png": (encode(plain().quantize(2), "PNG", transparency=b"\x80\x80"), (227, 137, 142)),
    "alpha-16-bit.png": (png(2, 2, (b"\0" + b"\xff\xff\0\0\0\0\x80\0" * 2) * 2, 6, bits=16), (255, 127, 127)),
    "one.png": (encode(plain(size=(1, 1)), "PNG"), RED),
    "thin.png": (encode(plain(size=(1, 60_000)), "PNG"), RED),
    "flat.png": (encode(plain(size=(60_000, 1)), "PNG"), RED),
    "icc-garbage.jpg": (encode(plain(), "JPEG", icc_profile=b"no profile" * 300), RED),
    "icc-garbage.png": (png(1, 1, b"\0" + bytes(RED), extra=chunk(b"iCCP", b"x\0\0garbage")), RED),
    "exif-garbage.jpg": (exif(b"garbage, no TIFF at all"), RED),
    "exif-cut.jpg": (exif(b"II*\0\x08\0\0\0\xff\xff"), RED),
    "exif-round.jpg": (exif(b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"), RED),
    "exif-no-number.jpg": (exif(struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 0x0112, 2, 4, b"abc\0", 0)), RED),
    "exif-ninety-nine.jpg": (exif(struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x0112, 3, 1, 99, 0)), RED),
    "exif-list.jpg": (exif(struct.pack("<2sHIHHHI2HI", b"II", 42, 8, 1, 0x0112, 3, 2, 6, 6, 0)), RED),
    # Rotated, with numbers as the camera's name: Pillow's exif_transpose rewrites the EXIF, and fails on them.
    "exif-odd-beside.jpg": (
        exif(
            struct.pack("<2sHIH", b"II", 42, 8, 2)
            + struct.pack("<HHII", 0x010F, 11, 2, 8)
            + struct.pack("<HHIHHI", 0x0112, 3, 1, 6, 0, 0)
        ),
        RED,
    ),
    "strip-beyond.tiff": (tiff_grey(10, 10, 10, 0xFFFFFFFF), (53, 53, 53)),
    "named.jpg": (encode(plain(), "PNG"), RED),
}
# Not images: name -> bytes, and a part of the reason.
REFUSED = {
    "nan.tiff": (encode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "finite number"),
    "infinite.tiff": (encode(Image.fromarray(np.full((8, 8), np.inf, np.float32)), "TIFF"), "finite number"),
    "truncated.jpg": (encode(plain(size=(400, 300)), "JPEG")[:900], "truncated"),
    "text-bomb.png": (
        png(1, 1, b"\0" + bytes(3), extra=chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(80 << 20)))),
        "cannot decode",
    ),
    "icc-bomb.png": (
        png(1, 1, b"\0" + bytes(3), extra=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(8 << 20)))),
        "too large",
    ),
    "zero-wide.png": (png(0, 5, b""), "cannot decode|not an image"),
    "zero.tiff": (tiff_grey(0, 0, 1, 1), "cannot decode|not an image"),
    "many-tags.tiff": (struct.pack("<2sHIH", b"II", 42, 8, 0xFFFF) + b"\xff" * 100, "not an image|cannot decode"),
    "bomb.png": (png(30_000, 30_000, bytes(1000)), "exceeds limit"),
    "large.png": (png(13_400, 13_400, bytes(1000)), "limit"),
    "wide.bmp": (struct.pack("<2sIIIIiiHHI", b"BM", 54, 0, 54, 40, 2**31 - 1, 1, 1, 24, 0) + bytes(20), "pixels|limit"),
    "bomb.webp": (b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(5), "limit|not an image|cannot"),
    "bomb.gif": (b"GIF89a\xff\xff\xff\xff\0\0\0" + b"\x2c" + bytes(9) + b"\x02\x02\x44\x01\0;", "limit"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not an image"),
    "paper.pdf": (b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>", "not an image"),
    "paper.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
    "old.wmf": (b"\xd7\xcd\xc6\x9a" + bytes(18) + b"\x01\0\x09\0" + bytes(60), "not an image"),
    "icon.ico": (encode(plain(size=(16, 16)), "ICO"), "not an image"),
    "stub.h5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "not an image"),
    "dots.xbm": (b"#define im_width 9\n#define im_height 9\nstatic char im_bits[] = {0};\n", "not an image"),
    "photo.psd": (b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(300), "not an image"),
}  # fmt: skip


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_all_the_same(name, resize):
    data, colour = PICTURES[name]
    pixels, _ = Preprocess(16, resize).read(data)
    assert np.abs(pixels[8, 8].astype(int) - colour).max() <= 4, pixels[8, 8]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.timeout(30)
def test_no_picture_is_a_reason(name, tmp_path):
    data, reason = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    for source in (data, tmp_path / name):
        with pytest.raises(ImageError, match=reason):
            Preprocess(16).read(source)


def test_turned_by_an_exif_whose_rest_is_garbage():
    data, _ = PICTURES["exif-odd-beside.jpg"]
    assert Preprocess(16).read(data)[1] == (30, 40)


def test_every_kind_that_is_named_like_a_picture_is_read():
    """The names that a walk takes for images, and those of raw datasets, are of FORMATS (HEIC has its own words)."""
    from clipline.utils.image_names import SUFFIXES

    Image.init()
    kinds = {Image.EXTENSION[suffix] for suffix in SUFFIXES - {".heic", ".heif"}}
    assert kinds == set(FORMATS)


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Ghostscript is a shell script")
def test_no_program_runs_on_a_picture(tmp_path):
    """A fake Ghostscript records that it ran: it does for plain Pillow, and never for clipline."""
    ran = tmp_path / "ran"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    (tmp_path / "photo.jpg").write_bytes(REFUSED["paper.eps"][0])
    programs = {
        "from PIL import Image; Image.open('photo.jpg').load()": True,
        "from clipline.image import open_rgb; open_rgb('photo.jpg')": False,
    }
    for program, runs in programs.items():
        ran.unlink(missing_ok=True)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PATH": path}, check=False,
                       capture_output=True)  # fmt: skip
        assert ran.exists() == runs, program


def test_embed_gives_each_a_row_or_a_reason(bundle, tmp_path, monkeypatch):
    """All of them in one folder, named .jpg so that a walk finds them."""
    import pyarrow.parquet as pq
    from typer.testing import CliRunner

    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (data, _) in (PICTURES | REFUSED).items():
        (folder / f"{name}.jpg").write_bytes(data)
    command = ["embed", str(folder), "--model", str(bundle), "--out", str(tmp_path / "out"), "--provider", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3 or type(done.exception).__name__ == "TooManyErrorsError", done.output
    rows = {row["path"] for part in (tmp_path / "out").glob("data/part-*") for row in pq.read_table(part).to_pylist()}
    errors = {row["path"]: row for row in pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()}
    # Grey has no direction in the model of colours: an error of the model, not of the image.
    grey = {path for path, row in errors.items() if row["stage"] == "infer"}
    assert {path for path, row in errors.items() if row["stage"] == "decode"} == {f"{name}.jpg" for name in REFUSED}
    assert rows | grey == {f"{name}.jpg" for name in PICTURES}
    assert grey == {"strip-beyond.tiff.jpg"}
    assert all(row["reason"] for row in errors.values())


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "I;16", "I;16B", "I", "F", "RGBa"])
def test_strips_give_what_the_whole_gives(mode, monkeypatch):
    rng = np.random.default_rng(0)
    if mode in {"I;16", "I;16B", "I", "F"}:
        kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
        image = Image.frombytes(mode, (7, 50), rng.integers(0, 65536, (50, 7)).astype(kinds[mode]).tobytes())
    else:
        image = Image.fromarray(rng.integers(0, 256, (50, 7, 4), dtype=np.uint8))
        image = image.convert("P" if mode == "PA" else mode).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(0, 256, 2))
    expected = np.asarray(rgb.to_rgb(image))
    monkeypatch.setattr(rgb, "_STRIP", 20)
    assert np.array_equal(np.asarray(rgb.to_rgb(image)), expected)
    assert expected.std() > 0


def test_large_ones_wait_for_each_other(monkeypatch):
    """Eight threads with 1,200 pixels each, and a budget of 2,500."""
    at_once, most, guard, together = 0, 0, threading.Lock(), None

    def decode(image):
        nonlocal at_once, most
        with guard:
            at_once += 1
            most = max(most, at_once)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        with guard:
            at_once -= 1
        return original(image)

    original = module.decode
    monkeypatch.setattr(module, "decode", decode)
    monkeypatch.setattr(module, "_pixel_budget", module.PixelBudget(2500))
    seen, data = {}, encode(plain(), "PNG")
    for limit, wanted, seconds in ((100, 3, 2), (10_000, 8, 60)):
        monkeypatch.setattr(module, "LARGE", limit)
        # A thread that got its pixels waits for `wanted` others: this long, if a third must not get any.
        most, together = 0, threading.Barrier(wanted, timeout=seconds)
        threads = [threading.Thread(target=open_rgb, args=(data,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen[limit] = most
    assert seen == {100: 2, 10_000: 8}


@pytest.mark.timeout(20)
def test_room_is_given_back_whatever_happens(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 100)
    monkeypatch.setattr(module, "_pixel_budget", module.PixelBudget(1200))
    for data in (encode(plain(), "PNG")[:100], encode(plain(), "PNG")) * 3:
        with contextlib.suppress(ImageError):
            Preprocess(16).read(data)
    assert open_rgb(encode(plain(), "PNG")).size == (40, 30)


def test_too_little_memory_is_a_reason(monkeypatch):
    def decode(image):
        raise MemoryError

    monkeypatch.setattr(module, "decode", decode)
    with pytest.raises(ImageError, match="too little memory"):
        open_rgb(encode(plain(), "PNG"))


@pytest.mark.parametrize("side", [512, 16_384])
def test_a_tile_far_larger_than_its_image_counts(side):
    """A TIFF of 10 x 10 pixels and a few bytes, whose only tile unpacks to gigabytes."""
    packed = zlib.compress(bytes(512 * 512))
    tags = {256: (4, 1, 10), 257: (4, 1, 10), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags |= {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 8), 325: (4, 1, len(packed))}
    data = tiff(tags, packed + bytes(len(packed) % 2))
    if side == 512:
        assert open_rgb(data).size == (10, 10)
    else:
        with pytest.raises(ImageError, match="16384 x 16384 pixels is over the limit"):
            open_rgb(data)


@pytest.mark.parametrize("size", [(1, 4_000_000), (4_000_000, 1)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_the_thinnest_images_take_little_memory(size, resize):
    """With columns first, 224 x 4,000,000 pixels would take 3.6 GB. Runs in a process with a limit of 2 GB."""
    program = (
        "import resource; from PIL import Image; from clipline.image import Preprocess\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        f"pixels = Preprocess(224, {resize!r})(Image.new('RGB', {size}, (1, 2, 3)))\n"
        "assert pixels.shape == (224, 224, 3) and pixels[5, 7].tolist() == [1, 2, 3]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nothing_is_said_on_the_way():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for data, _ in PICTURES.values():
            Preprocess(16).read(data)
    assert [str(warning.message) for warning in warned] == []


def test_a_file_that_grows_while_it_is_read_is_no_hang(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(plain(), "JPEG"))
    stop = threading.Event()

    def grow() -> None:
        with Path(path).open("ab") as file:
            while not stop.is_set():
                file.write(bytes(100))
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        assert open_rgb(path).size == (40, 30)
    finally:
        stop.set()
        thread.join()
