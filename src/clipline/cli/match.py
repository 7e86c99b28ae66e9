"""`clipline match`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipline.cli.options import JsonOption, ProviderName, ProviderOption, ThreadsOption, model_option
from clipline.errors import UsageError

if TYPE_CHECKING:
    from clipline.embed.item import Failure
    from clipline.match.captions import Captioned
    from clipline.runtime.model import OnnxModel

EXAMPLES = (
    "**Examples**\n\n"
    'clipline match photo.jpg --caption "a dog in the snow" --caption "two people at the beach"\n\n'
    "clipline match photo.jpg --captions captions.txt --json\n\n"
    "clipline match --quiz data/prepared --split test -n 8 --choices 4 --seed 0 --out quiz.png\n\n"
    "clipline match --quiz captions.csv --root images --choices 3\n\n"
    "In a pipe each line is: rank, probability, cosine, caption, separated by tabs."
)


def match(
    image: Annotated[Path | None, typer.Argument(metavar="[IMAGE]", help="An image file.", show_default=False)] = None,
    *,
    caption: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What may be in the image; give several.")
    ] = None,
    captions: Annotated[Path | None, typer.Option(metavar="FILE", help="Captions, one on each line.")] = None,
    quiz: Annotated[
        Path | None,
        typer.Option(
            metavar="PREPARED|CSV",
            help="Instead of an image: ask about all captions of a split, each among others: data/prepared, or a CSV "
            "with the columns image and caption, and maybe split.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With --quiz: which split.", show_default="test, all of a CSV without splits")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="With --quiz: the folder of the images.", show_default="the one beside")
    ] = None,
    choices: Annotated[int, typer.Option(min=2, help="With --quiz: captions to choose from.")] = 4,
    n: Annotated[int, typer.Option("-n", min=1, help="With --quiz: questions in the picture.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="With --quiz: another one draws other questions.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="PICTURE.png", help="With --quiz: draw some questions here.")
    ] = None,
    model: Annotated[Path | None, model_option("The exported model.", show_default="models/onnx")] = None,
    as_json: JsonOption = False,
    max_errors: Annotated[int, typer.Option(min=0, help="With --quiz: exit with 3 if more images are unusable.")] = 0,
    threads: ThreadsOption = None,
    provider: ProviderOption = ProviderName.auto,
) -> None:
    """Say which of some captions fits an image best, with probabilities; or test the model on a split.

    Probabilities are shared out among these captions alone: where none fits, one of them is likeliest all the same,
    and the cosine tells.
    """
    from clipline.classify.images import open_for_images
    from clipline.cli.output import print_notes
    from clipline.pictures.gallery import check_path

    if (image is None) == (quiz is None):
        raise UsageError("name an IMAGE with captions, or --quiz")
    if quiz and (caption or captions):
        raise UsageError("--quiz brings captions of its own. Fix: leave out --caption and --captions")
    if image and (out or split or root):
        raise UsageError("--out, --split and --root are for --quiz")
    if out:
        check_path(out)
    if image:
        texts = _captions(caption or [], captions)
        _match(image, texts, open_for_images(model, provider.value, threads), as_json)
        return
    from clipline.classify.predict import Errors
    from clipline.match.captions import read

    data = read(quiz, split, root)
    failures = _quiz(data, open_for_images(model, provider.value, threads), choices, seed, n, out, as_json)
    print_notes(Errors(failures).enforce(len(data.names), max_errors))


def _captions(given: list[str], file: Path | None) -> list[str]:
    from clipline.cli.inputs import read_lines

    texts = [*given, *(read_lines(file, "captions") if file else [])]
    if len(texts) < 2:
        count = f"{len(texts)} caption{'s' * (len(texts) != 1)}"
        raise UsageError(f"{count}: there is nothing to choose. Fix: give two, with --caption")
    return texts


def _match(image: Path, captions: list[str], model: OnnxModel, as_json: bool) -> None:
    from clipline.classify.zeroshot import caption_vectors, logit_scale, notes, probabilities
    from clipline.cli.output import print_notes, print_results
    from clipline.match import show
    from clipline.search.encode import embed_images

    texts, vector = caption_vectors(model, captions), embed_images(model, [image])
    ranked = show.rank(captions, probabilities(vector, texts, logit_scale(model))[0], (vector @ texts.T)[0])
    content = {"image": str(image), "captions": [caption._asdict() for caption in ranked]}
    print_results(as_json, content, partial(show.print_table, ranked, str(image)), map(show.line, ranked))
    print_notes(notes(model, captions))


def _quiz(
    data: Captioned, model: OnnxModel, choices: int, seed: int, n: int, out: Path | None, as_json: bool
) -> list[Failure]:
    """Ask about all captions, print the accuracy, and draw `n` questions into `out`; returns unusable images."""
    from clipline.classify.zeroshot import notes
    from clipline.cli.output import print_json, print_notes, say
    from clipline.match import picture, show
    from clipline.match.quiz import ask

    quiz, failures = ask(model, data, choices, seed)
    if as_json:
        print_json(show.figures(quiz))
    else:
        say(show.summary(quiz, data), err=False)
    if out:
        picture.draw(quiz, data, n, seed, out)
        say(f"drawn: {out}")
    print_notes(notes(model))
    return failures
