"""One run: params.yaml, and the dataset and recipe that it names, checked together before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clipline.config.base import Positive, Settings, read_yaml, unknown_key, validate
from clipline.config.dataset import Dataset, Fraction
from clipline.config.recipe import Recipe
from clipline.errors import UsageError


class PreprocessParams(Settings):
    """max_broken: the fraction of images that may be unreadable before the stage fails."""

    max_broken: Fraction


class TrainParams(Settings):
    """What belongs to a run, not to a recipe.

    device: auto takes CUDA where there is one. save_every: steps between two saved states, beside each epoch's end.
    devices: how many processes train together, each on a GPU of its own, or on a share of the cores.
    """

    seed: int
    device: Literal["auto", "cpu", "cuda"]
    save_every: Positive
    devices: Positive


class EvaluateParams(Settings):
    """batch_size: images or captions per forward pass. The gallery shows `queries` rows of `top` images."""

    batch_size: Positive
    queries: Positive
    top: Positive


class VariantGate(Settings):
    """What another precision of the image graph may lose against fp32: cosine, and R@1 in points."""

    min_cosine: Fraction
    max_r1_drop: Annotated[float, Field(ge=0)]


class ExportParams(Settings):
    """The gates of the exported model against torch: embeddings on real inputs, and R@1 in points.

    precisions: of the image graph, beside fp32; calibration_images: of the training split, that fix int8's scales.
    """

    batch_size: Positive
    opset: Annotated[int, Field(ge=18)]
    min_cosine: Fraction
    max_abs: Annotated[float, Field(gt=0)]
    max_r1_drop: Annotated[float, Field(ge=0)]
    precisions: list[Literal["fp16", "int8"]]
    calibration_images: Positive
    fp16: VariantGate
    int8: VariantGate


class EmbedParams(Settings):
    """folder: what to embed; null means the dataset's test images."""

    folder: str | None
    batch_size: Positive
    dtype: Literal["float16", "float32"]
    max_errors: Annotated[int, Field(ge=0)]


class TrackingParams(Settings):
    """experiment: the name under which MLflow keeps the runs."""

    experiment: str


class Params(Settings):
    """params.yaml."""

    data: str
    recipe: str
    preprocess: PreprocessParams
    train: TrainParams
    evaluate: EvaluateParams
    export: ExportParams
    embed: EmbedParams
    tracking: TrackingParams


class Run(Settings):
    """params.yaml with the dataset and the recipe that it names."""

    params: Params
    dataset: Dataset
    recipe: Recipe


def load_run(root: Path = Path()) -> Run:
    """Read and check all three files below `root`. Raises UsageError that names the file and the key."""
    params = Params.from_yaml(root / "params.yaml")
    dataset = _named(root / "configs" / "data", params.data, "data")
    recipe = _named(root / "configs" / "recipe", params.recipe, "recipe")
    run = Run(
        params=params,
        dataset=validate(Dataset, read_yaml(dataset), str(dataset)),
        recipe=Recipe.from_yaml(recipe),
    )
    devices, batch = params.train.devices, run.recipe.train.batch_size
    if devices > batch:
        raise UsageError(f"params.yaml: train.devices ({devices}) is over {recipe}: train.batch_size ({batch})")
    return run


def _named(folder: Path, name: str, key: str) -> Path:
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        error = unknown_key(name, known).message().replace("unknown key", f"no such {key}:")
        raise UsageError(f"params.yaml: {key}: {error} (one file each in {folder})")
    return folder / f"{name}.yaml"
