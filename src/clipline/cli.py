"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from clipline.errors import CliplineError, UsageError

app = typer.Typer(
    name="clipline",
    help="Embed folders of images with your exported CLIP model, and search them in words.",
    epilog="**Examples**\n\n"
    "clipline embed photos --model models/onnx --out embeddings\n\n"
    'clipline search embeddings "two dogs play in the snow" -n 9 --gallery dogs.png',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores that this process may use")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"clipline {version('clipline')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="**Examples**\n\n"
    "clipline embed photos --model models/onnx --out embeddings\n\n"
    "clipline embed photos --model models/onnx --out embeddings --prune --max-errors 100\n\n"
    "clipline embed files.parquet --column path --model models/onnx --out embeddings\n\n"
    "clipline embed 'shards/{000..099}.tar' --model models/onnx --out embeddings\n\n"
    "clipline embed s3://bucket/photos --include '2024/**' --model models/onnx --out embeddings\n\n"
    "clipline embed s3://bucket/photos --engine ray --ray-address auto --model /shared/onnx --out embeddings\n\n"
    "**Exit codes**: 0 done, 1 failed, 2 bad usage, 3 done but more errors than --max-errors"
)
def embed(
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="A folder; a list of paths (.txt); a table with a column of paths (.parquet, .csv, .tsv); tar shards "
            "(.tar, a glob, or {000..099}); or a URL (s3://, gs://, ...).",
        ),
    ],
    *,
    model: Annotated[Path, typer.Option(help="The exported model's folder, such as models/onnx.")],
    out: Annotated[Path, typer.Option(help="Folder to write: parquet parts, errors.parquet, manifest.json.")],
    include: Annotated[
        list[str] | None, typer.Option(help="Only these images, such as '*.png' or '2024/**'; may be repeated.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Not these images; may be repeated.")] = None,
    column: Annotated[str | None, typer.Option(help="The table's column of paths.")] = None,
    root: Annotated[Path | None, typer.Option(help="What paths in a list or table are relative to.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the embeddings of images that are gone.")] = False,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Images in one call of the model; auto finds the fastest.",
            show_default="16 on the CPU, 256 on CUDA",
        ),
    ] = None,
    precision: Annotated[
        PrecisionName, typer.Option(help="Of the model; auto takes the fastest here of those that were exported.")
    ] = PrecisionName.fp32,
    dtype: Annotated[DtypeName, typer.Option(help="How vectors are stored.")] = DtypeName.float16,
    max_errors: Annotated[int, typer.Option(min=0, help="More failed images than this end in exit 3.")] = 0,
    threads: ThreadsOption = None,
    provider: ProviderOption = ProviderName.auto,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows in one parquet file: what a kill may cost.")] = 1000,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Embed all anew; what is in --out is replaced once the new is whole."),
    ] = False,
    engine: Annotated[
        EngineName, typer.Option(help="local, or Ray Data: nodes see model and images under the same paths, or URLs.")
    ] = EngineName.local,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto", help="The Ray cluster.", show_default="RAY_ADDRESS, else one on this machine"
        ),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Ray workers, each with --threads CPUs.", show_default="what fits")
    ] = None,
) -> None:
    """Embed images into parquet files; run it again to go on, or to bring them up to date.

    Unchanged images are passed over, changed ones embedded anew, images with the same bytes embedded once. Images are
    files ending in .jpg .jpeg .png .webp .gif .bmp .tif .tiff .avif .heic .heif, in any case; names that start with a
    dot are passed over. errors.parquet lists what could not be embedded, and why.
    """
    from clipline.embed.batch_size import choose
    from clipline.embed.manifest import MANIFEST, read
    from clipline.embed.ray_cluster import Cluster
    from clipline.embed.ray_engine import RayEngine
    from clipline.embed.run import Options
    from clipline.embed.run import embed as embed_source
    from clipline.embed.sources import open_source
    from clipline.runtime import USUAL_BATCH, OnnxModel

    if engine == EngineName.local and (ray_address or ray_workers):
        raise UsageError("--ray-address and --ray-workers do nothing without --engine ray")
    cluster = None
    if engine == EngineName.ray:
        cluster = Cluster(ray_address, provider=provider.value, threads=threads, workers=ray_workers)
    source = open_source(images, column=column, root=root, include=include or [], exclude=exclude or [], skip=out)
    chosen = precision.value
    if chosen == "auto" and not overwrite and (out / MANIFEST).is_file():
        chosen = read(out).precision  # of one folder's vectors all are of one precision
    if cluster and "auto" in (chosen, batch_size):
        raise UsageError("--engine ray: auto would measure this machine. Mend: name --batch-size and --precision")
    if cluster and not batch_size:
        batch_size = str(USUAL_BATCH["cuda" if provider == ProviderName.cuda else "cpu"])
    # With a cluster the provider is its workers': this machine may have no GPU.
    here = "cpu" if cluster else provider.value
    opened = OnnxModel(model, provider=here, precision=chosen, threads=threads, bulk=True)
    if chosen == "auto":
        typer.echo(f"--precision auto: {opened.precision_words}", err=True)
    options = Options(
        batch_size=choose(opened, batch_size, lambda line: typer.echo(line, err=True)),
        dtype=dtype.value,
        threads=threads,
        part_rows=part_rows,
        prune=prune,
        overwrite=overwrite,
        engine=partial(RayEngine, cluster=cluster) if cluster else None,
    )
    summary = embed_source(source, opened, out, options)
    typer.echo(str(summary))
    summary.enforce(max_errors)


@app.command(
    epilog="**Examples**\n\n"
    'clipline search embeddings "two dogs play in the snow"\n\n'
    'clipline search embeddings "people sitting near the beach" -n 9 --gallery beach.png\n\n'
    'clipline search embeddings "a red car" "a boat" --json\n\n'
    'clipline search embeddings "a red car" | cut -f 3\n\n'
    "In a pipe each line is: rank, score, path, query, separated by tabs."
)
def search(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `clipline embed` wrote.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="What to look for, in words.")],
    *,
    n: Annotated[int, typer.Option("-n", min=1, help="Images per query.")] = 9,
    model: Annotated[
        Path | None,
        typer.Option(help="The model that embedded them.", show_default="the one that DIR names"),
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Also draw the images found into this picture.", metavar="PICTURE.png")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Where the images are now, if they were moved.", show_default="where they were"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    provider: ProviderOption = ProviderName.cpu,
) -> None:
    """Find the images that fit a description, best first, with their scores (cosine, 1 is the best)."""
    from rich.console import Console

    from clipline.gallery import check_path
    from clipline.search import show
    from clipline.search.query import search as find

    if gallery:
        check_path(gallery)
    found = find(folder, queries, n, model=model, root=root, provider=provider.value)
    console = Console()
    if as_json:
        typer.echo(show.to_json(found.answers))
    elif console.is_terminal:
        show.print_table(found.answers, console)
    else:
        for line in show.lines(found.answers):
            typer.echo(line)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if gallery:
        show.draw(found.answers, gallery)
        typer.echo(f"drawn: {gallery}", err=True)


@app.command(
    epilog="**Examples**\n\n"
    "clipline doctor\n\n"
    "clipline doctor --model models/onnx --provider cuda\n\n"
    "clipline doctor photos --model models/onnx\n\n"
    "**Exit codes**: 0 all right, 1 something is broken, 2 bad usage"
)
def doctor(
    images: Annotated[
        str | None,
        typer.Argument(metavar="[IMAGES]", help="Photos to measure with: a folder, or what else embed takes."),
    ] = None,
    *,
    model: Annotated[
        Path | None, typer.Option(help="The exported model's folder: its files are checked, and where its nodes run.")
    ] = None,
    provider: ProviderOption = ProviderName.auto,
    precision: Annotated[PrecisionName, typer.Option(help="Of the model that is measured.")] = PrecisionName.fp32,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is installed, what really runs, and with IMAGES how many of them each stage does per second."""
    import json

    from clipline.doctor.report import examine
    from clipline.embed.sources import open_source

    source = open_source(images) if images else None
    report = examine(source, model, provider=provider.value, precision=precision.value, threads=threads)
    if as_json:
        typer.echo(json.dumps(report.json(), indent=2, ensure_ascii=False))
    else:
        for line in report.lines():
            typer.echo(line)
    if report.problems:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors that a person can mend are one message and an exit code, not a traceback."""
    # File names may hold bytes that are no text: print them as they are.
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
    # As for Ctrl-C, temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except CliplineError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
