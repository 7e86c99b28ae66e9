"""An embeddings folder with honest and hostile rows, and the real server on it."""

from pathlib import Path

import pytest
from PIL import Image

from tests.app.album_files import SCRIPT, SECRET, shades, write


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
