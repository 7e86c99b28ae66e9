"""What tests of several folders make or take apart."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from PIL import Image

from clipline.config.base import validate
from clipline.config.dataset import Scenes
from clipline.config.run import ExportParams, VariantGate

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> SimpleNamespace:
    """`clipline` with these arguments, in this process: code, out, err, and error, what `main` would print."""
    from typer.testing import CliRunner

    from clipline.cli import app
    from clipline.errors import CliplineError

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    code, error = done.exit_code, ""
    if isinstance(done.exception, CliplineError):
        code, error = done.exception.exit_code, str(done.exception)
    elif done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return SimpleNamespace(code=code, out=done.stdout, err=done.stderr, error=error)


def save(path: Path, colour: str | tuple[int, int, int] = (200, 20, 30), size=(40, 30), **options) -> Path:
    """An image of one colour at `path`. options: of Pillow's save."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def unit(colour: tuple[int, int, int]) -> np.ndarray:
    """The embedding of an image of one colour by the model of `make_bundle`: float64 [3]."""
    less_grey = np.array(colour, float) - np.mean(colour)
    return less_grey / np.linalg.norm(less_grey)


def rows(folder: Path) -> list[dict]:
    """Every row of an embeddings folder, in order."""
    import pyarrow.parquet as pq

    return [row for part in sorted(folder.glob("data/part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def errors(folder: Path) -> list[dict]:
    """errors.parquet as rows."""
    import pyarrow.parquet as pq

    return pq.read_table(folder / "errors.parquet").to_pylist()


def scenes(images: int, captions: int, *, val: int, test: int) -> Scenes:
    """The settings of a dataset of so many images and captions, split by hash."""
    values = {
        "kind": "scenes",
        "path": None,
        "source": {"images": images, "size": 40},
        "expect": {"images": images, "captions": captions},
        "captions": {},
        "split": {"kind": "hash", "val": val, "test": test},
    }
    return validate(Scenes, values, "scenes.yaml")


def export_params(**changes: object) -> ExportParams:
    """Settings of an export of fp32 alone; wide gates for the other precisions."""
    params = ExportParams(
        batch_size=8,
        opset=20,
        min_cosine=0.9999,
        max_abs=1e-4,
        max_r1_drop=0.1,
        precisions=[],
        calibration_images=24,
        fp16=VariantGate(min_cosine=0.99, max_r1_drop=100.0),
        int8=VariantGate(min_cosine=0.5, max_r1_drop=100.0),
    )
    return params.model_copy(update=changes)


def load_script(path: str) -> ModuleType:
    """The script at `path` of the repository as a module; it finds what lies beside it, as when it is run."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "_"), file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module
