"""A run: params.yaml with the dataset and the recipe that it names, checked together before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clipline.config.base import Positive, Settings, read_yaml, unknown_key, validate
from clipline.config.dataset import Dataset, Fraction
from clipline.config.recipe import Recipe
from clipline.errors import UsageError


class PreprocessParams(Settings):
    """max_broken: the largest fraction of unreadable images; above it the stage fails."""

    max_broken: Fraction


class TrainParams(Settings):
    """Settings of a training run that are not part of the recipe.

    device: `auto` is CUDA if available, else the CPU. save_every: number of steps between saved states; each epoch's
    end saves one too. devices: number of processes that train together, each on its own GPU, or on a part of the CPU's
    cores.
    """

    seed: int
    device: Literal["auto", "cpu", "cuda"]
    save_every: Positive
    devices: Positive


class EvaluateParams(Settings):
    """batch_size: images or captions in a forward pass. The gallery has `queries` rows of `top` images."""

    batch_size: Positive
    queries: Positive
    top: Positive


class VariantGate(Settings):
    """Limits for a lower precision of the image graph against fp32: lowest cosine, largest loss of R@1 in points."""

    min_cosine: Fraction
    max_r1_drop: Annotated[float, Field(ge=0)]


class ExportParams(Settings):
    """The export, and its gates: the limits for the exported model against torch.

    batch_size: the largest batch that is compared. min_cosine, max_abs: limits for each embedding and for each of its
    components. max_r1_drop: largest loss of R@1, in points. precisions: those of the image graph beside fp32.
    calibration_images: how many training images determine int8's scales.
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
    """folder: what to embed; null is the dataset's test images. dtype: of the stored embeddings."""

    folder: str | None
    batch_size: Positive
    dtype: Literal["float16", "float32"]
    max_errors: Annotated[int, Field(ge=0)]


class TrackingParams(Settings):
    """experiment: the MLflow experiment of the runs."""

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
    """params.yaml, with the dataset and the recipe that it names."""

    params: Params
    dataset: Dataset
    recipe: Recipe


def load_run(root: Path = Path()) -> Run:
    """Read and check the three files below `root`. Raises UsageError that names the file and the key."""
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
