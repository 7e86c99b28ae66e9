"""Options and arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clipline.registry import model_folder


class ProviderName(StrEnum):
    """What onnxruntime runs on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrecisionName(StrEnum):
    """Which image graph runs."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class EngineName(StrEnum):
    """Where the pipeline runs."""

    local = "local"
    ray = "ray"


class DtypeName(StrEnum):
    """How vectors are stored."""

    float16 = "float16"
    float32 = "float32"


ProviderOption = Annotated[
    ProviderName,
    typer.Option(help="What runs the model: auto takes CUDA where it starts, cuda fails where it does not."),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `clipline embed` wrote.")]
RootOption = Annotated[
    Path | None, typer.Option(help="Where the images are now, if they were moved.", show_default="where they were")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Print0Option = Annotated[
    bool, typer.Option("-0", "--print0", help="Print nothing but files, exactly, each with NUL after it: for xargs -0.")
]
CsvOption = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per image here.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores that this process may use")
]


def model_option(help: str, **settings):  # the type of what typer.Option returns is not public
    """An option that takes a model's folder or its name in MLflow, and gives a Path."""
    return typer.Option(parser=model_folder, metavar="MODEL", help=help, **settings)


def usual_experiment() -> str:
    """The MLflow experiment that params.yaml of this folder names; `clipline` where there is none."""
    from clipline.config.run import Params

    params = Path("params.yaml")
    return Params.from_yaml(params).tracking.experiment if params.is_file() else "clipline"
