"""`clipline embed`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipline.cli.options import (
    DtypeName,
    EngineName,
    PrecisionName,
    ProviderName,
    ProviderOption,
    ThreadsOption,
    model_option,
)
from clipline.errors import UsageError

if TYPE_CHECKING:
    from clipline.embed.on_ray.cluster import Cluster

EXAMPLES = (
    "**Examples**\n\n"
    "clipline embed photos --model models/onnx --out embeddings\n\n"
    "clipline embed photos --model models/onnx --out embeddings --prune --max-errors 100\n\n"
    "clipline embed files.parquet --column path --model models/onnx --out embeddings\n\n"
    "clipline embed 'shards/{000..099}.tar' --model models/onnx --out embeddings\n\n"
    "clipline embed s3://bucket/photos --include '2024/**' --model models/onnx --out embeddings\n\n"
    "clipline embed s3://bucket/photos --engine ray --ray-address auto --model /shared/onnx --out embeddings\n\n"
    "**Exit codes**: 0 done, 1 failed, 2 bad usage, 3 done but more errors than --max-errors"
)


ImagesArgument = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="A folder; a list of paths (.txt); a table with a column of images or paths (.parquet, .csv, .tsv); tar "
        "shards (.tar, a glob, or {000..099}); or a URL (s3://, gs://, ...).",
    ),
]
IncludeOption = Annotated[
    list[str] | None, typer.Option(help="Only these images: '*.png', '2024/**', as in .gitignore; may be repeated.")
]
BatchSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Images in one call of the model; auto measures which is fastest.",
        show_default="16 on the CPU, 256 on CUDA",
    ),
]
EngineOption = Annotated[
    EngineName, typer.Option(help="local, or ray: a cluster whose nodes see model and images under the same paths.")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto", help="The Ray cluster.", show_default="RAY_ADDRESS, else one on this machine"
    ),
]
RayWorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Ray workers, each with --threads CPUs.", show_default="what fits")
]
PrecisionOption = Annotated[
    PrecisionName,
    typer.Option(help="Precision of the image graph; auto measures the exported ones and takes the fastest."),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Embed all images again; the old embeddings stay until the new are complete."),
]


def embed(
    images: ImagesArgument,
    *,
    model: Annotated[Path, model_option("The exported model: models/onnx, or MLflow's models:/clipline@champion.")],
    out: Annotated[Path, typer.Option(help="Folder to write: data/*.parquet, errors.parquet, manifest.json.")],
    include: IncludeOption = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave these images out; may be repeated.")] = None,
    keep_machine_folders: Annotated[
        bool,
        typer.Option(
            "--keep-machine-folders", help="Keep the folders that NAS and photo libraries make, such as @eaDir."
        ),
    ] = False,
    column: Annotated[str | None, typer.Option(help="The table's column of images or paths.")] = None,
    root: Annotated[Path | None, typer.Option(help="The folder that relative paths start from.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the embeddings of images that are gone.")] = False,
    batch_size: BatchSizeOption = None,
    precision: PrecisionOption = PrecisionName.fp32,
    dtype: Annotated[DtypeName, typer.Option(help="How vectors are stored.")] = DtypeName.float16,
    max_errors: Annotated[int, typer.Option(min=0, help="Exit with 3 if more images than this fail.")] = 0,
    threads: ThreadsOption = None,
    provider: ProviderOption = ProviderName.auto,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows in one parquet file; a kill loses at most these.")] = 1000,
    overwrite: OverwriteOption = False,
    engine: EngineOption = EngineName.local,
    ray_address: RayAddressOption = None,
    ray_workers: RayWorkersOption = None,
) -> None:
    """Embed images into parquet files; run it again to continue, or to bring them up to date.

    Unchanged images are skipped, changed ones embedded again, images with the same bytes embedded once. Images are
    known by suffix (.jpg .jfif .png .webp .tiff .jp2 .avif .heic ...); other files, and folders of thumbnails and
    deleted files that machines make, are counted; --include '*.xyz' takes files whatever their suffix. Names that
    start with a dot are skipped. errors.parquet lists what could not be embedded, and why.
    """
    from clipline.cli.output import say
    from clipline.embed.batch_size import pick_batch_size
    from clipline.embed.on_ray.engine import RayEngine
    from clipline.embed.run import Options
    from clipline.embed.run import embed as embed_source
    from clipline.embed.sources import open_source
    from clipline.embeddings.manifest import precision_for
    from clipline.runtime.model import OnnxModel

    cluster = _cluster(engine, ray_address, ray_workers, provider, threads)
    source = open_source(
        images,
        column=column,
        root=root,
        include=include or [],
        exclude=exclude or [],
        keep_machine_folders=keep_machine_folders,
        skip=out,
    )
    chosen = precision_for(out, precision.value, overwrite=overwrite)
    if cluster and "auto" in (chosen, batch_size):
        raise UsageError("--engine ray: auto would measure this machine. Fix: give --batch-size and --precision")
    # With a cluster the provider is for its workers: this machine may have no GPU.
    local_provider = "cpu" if cluster else provider.value
    opened = OnnxModel(model, provider=local_provider, precision=chosen, threads=threads, bulk=True)
    if chosen == "auto":
        say(f"--precision auto: {opened.precision_words}")
    size = None if batch_size is None else pick_batch_size(opened, batch_size, say)
    options = Options(
        batch_size=size,
        dtype=dtype.value,
        threads=threads,
        part_rows=part_rows,
        prune=prune,
        overwrite=overwrite,
        engine=partial(RayEngine, cluster=cluster) if cluster else None,
    )
    summary = embed_source(source, opened, out, options)
    for line in str(summary).split("\n"):
        say(line, err=False)
    summary.enforce(max_errors)


def _cluster(
    engine: EngineName, address: str | None, workers: int | None, provider: ProviderName, threads: int | None
) -> Cluster | None:
    """The Ray cluster to use; None for this machine. Raises UsageError."""
    if engine == EngineName.local:
        if address or workers:
            raise UsageError("--ray-address and --ray-workers do nothing without --engine ray. Fix: add it")
        return None
    from clipline.embed.on_ray.cluster import Cluster

    return Cluster(address, provider=provider.value, threads=threads, workers=workers)
