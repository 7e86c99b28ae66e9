"""`clipline search`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipline.cli.options import (
    FolderArgument,
    JsonOption,
    Print0Option,
    ProviderName,
    ProviderOption,
    RootOption,
    model_option,
)
from clipline.errors import CliplineError, UsageError

if TYPE_CHECKING:
    from clipline.search.searcher import Answers, Searcher

EXAMPLES = (
    "**Examples**\n\n"
    'clipline search embeddings "two dogs play in the snow"\n\n'
    'clipline search embeddings "people sitting near the beach" -n 9 --gallery beach.png\n\n'
    "clipline search embeddings --image dog.jpg --gallery like-dog.html\n\n"
    'clipline search embeddings "a dog" --not "snow" --min-score 0.2\n\n'
    'clipline search embeddings "a red car" "a boat" --json\n\n'
    "clipline search embeddings --queries queries.txt | cut -f 3\n\n"
    "clipline search embeddings 'a dog' -n 50 -0 | xargs -0 cp -t dogs\n\n"
    "clipline search embeddings (in a terminal: asks for queries until Ctrl-D)\n\n"
    "Each QUERY, each --image and each line of --queries is a search of its own. --not takes the mean embedding m of "
    "its texts away from that of the query q: the search is for (q - m) / |q - m|.\n\n"
    "In a pipe each line is: rank, score, path, query, separated by tabs; control characters in names are escaped. "
    "With -0: the files themselves.\n\n"
    "Searches are exact: every image is compared. A flat copy of large embeddings is kept beside them, in .DIR.index, "
    "and follows them; it may be deleted at any time. From 2,000,000 images on, or with --approximate, an approximate "
    "index is made there too; how many of the true ten best it finds is measured and printed."
)


ImageOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Look for images like this one. May be given several times."),
]
GalleryOption = Annotated[
    Path | None,
    typer.Option(help="Also draw the images found into this picture or page.", metavar="FILE.png|FILE.html"),
]
ApproximateOption = Annotated[
    bool | None,
    typer.Option(
        "--approximate/--exact",
        help="Whether an approximate index may choose what is compared.",
        show_default="by the number of images",
    ),
]


def search(
    folder: FolderArgument,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[QUERY]...", help="What to look for, in words.", show_default=False)
    ] = None,
    *,
    image: ImageOption = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Look for each line of this text file; - reads standard input.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="TEXT", help="Less of this, in words. May be given several times."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Images per query.")] = 9,
    min_score: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Leave out images with a lower score.", show_default="all")
    ] = None,
    model: Annotated[Path | None, model_option("The model that embedded them.", show_default="that of DIR")] = None,
    gallery: GalleryOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
    print0: Print0Option = False,
    approximate: ApproximateOption = None,
    provider: ProviderOption = ProviderName.cpu,
) -> None:
    """Find the images that fit a description or an image, best first, with their scores (cosine, 1 is the best)."""
    from clipline.cli.inputs import read_lines
    from clipline.cli.output import check_print0, print_notes
    from clipline.search import show
    from clipline.search.searcher import open_searcher
    from clipline.utils.image_names import is_image

    check_print0(print0, as_json)
    requested = [*(words or []), *(read_lines(queries, "queries") if queries else []), *(image or [])]
    if not requested and not queries and not sys.stdin.isatty():
        raise typer.BadParameter(
            "nothing to look for, and standard input is no terminal to ask at. Give words, --image FILE, "
            "or --queries FILE (- reads standard input)",
            param_hint="QUERY",
        )
    if not requested and queries:
        raise UsageError(f"--queries {queries}: no query in it. Fix: write one on each line")
    if gallery:
        show.check_path(gallery)
    searcher = open_searcher(folder, model=model, root=root, provider=provider.value, approximate=approximate)
    print_notes(
        f"`{name}` is taken for words; for images like that one: --image {name}"
        for name in words or []
        if is_image(name)
    )

    def find(queries: list[str | Path]) -> None:
        answers = searcher.find(queries, n, without=without or [], min_score=min_score)
        _report(answers, as_json, print0, gallery)

    if requested:
        find(requested)
    else:
        _prompt(searcher, find)


def _report(result: Answers, as_json: bool, print0: bool, gallery: Path | None) -> None:
    from clipline.cli.output import print_files, print_notes, print_results, say
    from clipline.search import show

    answers = result.answers
    if print0:
        print_files(show.files(answers))
    else:
        print_results(as_json, show.as_objects(answers), partial(show.print_table, answers), show.lines(answers))
    print_notes(result.notes)
    if gallery:
        show.draw(answers, gallery)
        say(f"drawn: {gallery}")


def _prompt(searcher: Searcher, find: Callable[[list[str | Path]], None]) -> None:
    """Read queries from the terminal until Ctrl-D; errors are printed, and the next query is asked for."""
    import contextlib

    from clipline.cli.output import say

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() then knows arrows and earlier queries)
    hint = "words, or @FILE for images like that one; Ctrl-D ends"
    say(f"{len(searcher.index):,} images in {searcher.index.folder}. Search for {hint}")
    while True:
        try:
            line = input("search> ").strip()
        except EOFError:
            say("")
            return
        if not line:
            continue
        try:
            find([Path(line[1:].strip()).expanduser() if line.startswith("@") else line])
        except CliplineError as error:
            say(f"error: {error}")
