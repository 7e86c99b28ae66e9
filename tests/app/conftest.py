"""An embeddings folder with honest and hostile rows, and the real server on it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Row

SECRET = (1, 2, 3)  # the colour of images that must never be served
SCRIPT = "${alert(1)}<img src=x onerror=alert(2)>'\"&.png"


def unit(colour) -> np.ndarray:
    """What the colour model makes of an image of one colour."""
    less_grey = np.array(colour, float) - np.mean(colour)
    return less_grey / np.linalg.norm(less_grey)


def shades(count: int) -> dict[str, tuple[int, int, int]]:
    """From red by way of green to blue."""
    angle = np.linspace(0, np.pi, count)
    return {
        f"{number:03d}.png": (round(125 + 125 * np.cos(a)), round(250 * np.sin(a)), round(125 - 125 * np.cos(a)))
        for number, a in enumerate(angle)
    }


def write(folder: Path, rows: dict[str, tuple[int, int, int]]) -> None:
    """Embeddings in `folder` as the colour model would make them; their paths need not exist."""
    folder.mkdir(exist_ok=True)
    identity = Identity(model_id="colours", variant="fp32-0", dim=3, dtype="float32", root="../photos", model="../onnx")
    with Writer(folder, identity, 1000) as writer:
        for path, colour in rows.items():
            writer.add(Row(path, 1, None, "", 1, 1), unit(colour))
        writer.finish([])


@pytest.fixture(scope="session")
def tools():
    """The functions and names of this file, as tests cannot import a conftest by name."""

    class Tools:
        pass

    for function in (unit, shades, write):
        setattr(Tools, function.__name__, staticmethod(function))
    Tools.SECRET, Tools.SCRIPT = SECRET, SCRIPT
    return Tools


@pytest.fixture(scope="session")
def make_album(make_bundle):
    """make_album(folder): `photos` with 20 shades, `onnx` and `index` in it; returns the rows."""

    def make(folder: Path) -> dict[str, tuple[int, int, int]]:
        rows = shades(20)
        (folder / "photos").mkdir()
        for name, colour in rows.items():
            Image.new("RGB", (60, 40), colour).save(folder / "photos" / name)
        make_bundle(folder / "onnx")
        write(folder / "index", rows)
        return rows

    return make


@pytest.fixture
def album(make_album, tmp_path) -> Path:
    """A folder of its own with 20 shades."""
    make_album(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def hostile(make_album, tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """(folder, rows by path): beside the shades what leads out of the folder, is no image, or is not there."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = make_album(folder)
    photos, outside = folder / "photos", folder / "outside"
    outside.mkdir()
    Image.new("RGB", (50, 50), SECRET).save(outside / "secret.png")
    (photos / "link-out.png").symlink_to(outside / "secret.png")
    (photos / "folder-out").symlink_to(outside)
    (photos / "link-in.png").symlink_to(photos / "000.png")
    (photos / "circle.png").symlink_to(photos / "circle.png")
    (photos / "page.png").write_text("<html><script>alert(1)</script></html>")
    (photos / "cut.png").write_bytes((photos / "000.png").read_bytes()[:60])
    (photos / "folder.png").mkdir()
    Image.new("RGB", (30, 20), (200, 30, 40)).save(photos / SCRIPT)
    Image.new("RGB", (30, 20), (9, 200, 9)).save(photos / "scan.tif")
    names = [
        "../outside/secret.png", str(outside / "secret.png"), "folder-out/secret.png", "link-out.png", "circle.png",
        "x/../../outside/secret.png", "/etc/passwd", "folder.png", "gone.png", "a" * 5000, "page.png", "cut.png",
        "link-in.png", SCRIPT, "scan.tif",
    ]  # fmt: skip
    rows |= {name: (250, 250 - 10 * number, 0) for number, name in enumerate(names)}
    write(folder / "index2", rows)
    return folder, {name: number for number, name in enumerate(rows)}


@pytest.fixture(scope="session")
def server(hostile, bench):
    """(address, process) of `clipline app` on the hostile folder."""
    with bench.served(str(hostile[0] / "index2")) as running:
        yield running
