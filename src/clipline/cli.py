"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clipline.errors import CliplineError

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
    "clipline embed photos --model models/onnx --out embeddings --overwrite --max-errors 100\n\n"
    "**Exit codes**: 0 done, 1 failed, 2 bad usage, 3 done but more errors than --max-errors"
)
def embed(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of images; its sub-folders are searched too.")
    ],
    *,
    model: Annotated[Path, typer.Option(help="The exported model's folder, such as models/onnx.")],
    out: Annotated[Path, typer.Option(help="Folder to write: parquet parts, errors.parquet, manifest.json.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one call of the model.")] = 32,
    dtype: Annotated[DtypeName, typer.Option(help="How vectors are stored.")] = DtypeName.float16,
    max_errors: Annotated[int, typer.Option(min=0, help="More failed images than this end in exit 3.")] = 0,
    threads: ThreadsOption = None,
    provider: ProviderOption = ProviderName.auto,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows in one parquet file.")] = 20_000,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the embeddings in --out, once the new ones are whole."),
    ] = False,
) -> None:
    """Embed every image of a folder into parquet files.

    Images are files ending in .jpg .jpeg .png .webp .gif .bmp .tif .tiff .avif .heic .heif, in any case;
    names that start with a dot are passed over. errors.parquet lists what could not be embedded, and why.
    """
    from clipline.embed.run import embed_folder
    from clipline.runtime import OnnxModel

    summary = embed_folder(
        folder,
        OnnxModel(model, provider=provider.value, threads=threads),
        out,
        batch_size=batch_size,
        dtype=dtype.value,
        threads=threads,
        part_rows=part_rows,
        overwrite=overwrite,
    )
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
