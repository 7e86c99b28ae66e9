"""`clipline classify`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from clipline.cli.options import ProviderName, ProviderOption, ThreadsOption, model_option
from clipline.errors import UsageError

if TYPE_CHECKING:
    from clipline.classify.evaluate import Evaluation
    from clipline.classify.images import Vectors
    from clipline.classify.labelled import Labelled
    from clipline.classify.predict import Errors

EXAMPLES = (
    "**Examples**\n\n"
    "clipline classify dog.jpg --labels dog,cat,horse\n\n"
    "clipline classify photos --labels-file labels.txt --csv labels.csv\n\n"
    "clipline classify embeddings --labels beach,street,mountain --template 'people at the {}'\n\n"
    "clipline classify photos --labels dog,cat | cut -f 1,2\n\n"
    "clipline classify cifar10 --evaluate --templates cifar10 --confusion confusion.png\n\n"
    "clipline classify tree --evaluate --json > figures.json\n\n"
    "Labelled images: folders named after the classes, or parquet files with a column of images and one of labels, as "
    "on the Hugging Face hub (hf download uoft-cs/cifar10 --repo-type dataset --local-dir cifar10).\n\n"
    "In a pipe each line is: image, label, probability, second label, its probability, ..., separated by tabs.\n\n"
    "**Exit codes**: 0 done, 1 failed, 2 bad usage, 3 done but more errors than --max-errors"
)


class _Asked(NamedTuple):
    """What is to be predicted and shown. templates: prompts. csv: a file to write, or None."""

    labels: list[str]
    templates: list[str]
    top: int
    csv: Path | None
    as_json: bool


def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
            help="Image files; or a folder; or embeddings, whose images are not read again; or what else `clipline "
            "embed` takes. With --evaluate: folders of images, one for each class, or labelled parquet files.",
        ),
    ],
    *,
    labels: Annotated[str | None, typer.Option(metavar="A,B,...", help="The labels, separated by commas.")] = None,
    labels_file: Annotated[Path | None, typer.Option(metavar="FILE", help="The labels, one on each line.")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A prompt with {} for the label; may be repeated, the mean counts."),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A set of prompts: captions, photo, plain, imagenet, cifar10, or a file with one on each line.",
            show_default="captions",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Labels per image.")] = 5,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="IMAGES are labelled: print accuracy. Labels: the names of its classes.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Of labelled images in splits.", show_default="test, else val, else train")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="PICTURE.png", help="With --evaluate: draw what was taken for what.")
    ] = None,
    model: Annotated[
        Path | None, model_option("The exported model.", show_default="that of the embeddings, else models/onnx")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where the images of the embeddings, or of a list, are.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per image here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    max_errors: Annotated[int, typer.Option(min=0, help="More unusable images than this end in exit 3.")] = 0,
    threads: ThreadsOption = None,
    provider: ProviderOption = ProviderName.auto,
) -> None:
    """Say which of your labels fits each image best, without training (zero-shot), with probabilities.

    They are shared out among your labels alone: an image that none of them fits gets one all the same. Words that
    captions use, such as `dog` or `beach`, do better than codes.
    """
    from clipline.classify import zeroshot
    from clipline.classify.images import Images, open_for_images, open_vectors
    from clipline.classify.labelled import open_labelled
    from clipline.classify.predict import Errors
    from clipline.cli.inputs import read_labels, read_templates
    from clipline.pictures.gallery import check_path

    prompts = read_templates(template or [], templates)
    if not evaluate and (split or confusion):
        raise UsageError("--split and --confusion are for labelled images. Fix: add --evaluate")
    if confusion:
        check_path(confusion)
    errors = Errors()
    if evaluate:
        if len(images) != 1 or root:
            raise UsageError("--evaluate takes one folder or parquet file of labelled images, and no --root")
        found = open_labelled(Path(images[0]), split)
        vectors = Images(found.source, open_for_images(model, provider.value, threads), threads)
        names = _with_distractors(found, labels, labels_file)
        _evaluate(vectors, found, _Asked(names, prompts, top, csv, as_json), errors, confusion)
    else:
        names = read_labels(labels, labels_file)
        vectors = open_vectors(images, model=model, root=root, provider=provider.value, threads=threads)
        _classify(vectors, _Asked(names, prompts, top, csv, as_json), errors)
    for note in [*vectors.notes, *zeroshot.notes(vectors.model, zeroshot.prompts(names, prompts))]:
        typer.echo(f"note: {note}", err=True)
    if note := errors.enforce(vectors.total, max_errors):
        typer.echo(f"note: {note}", err=True)


def _with_distractors(found: Labelled, labels: str | None, file: Path | None) -> list[str]:
    """The classes in words; behind them the labels given that no class has."""
    from clipline.cli.inputs import read_labels

    if labels is None and file is None:
        return found.labels
    given = read_labels(labels, file)
    if missing := [label for label in found.labels if label not in given]:
        raise UsageError(
            f"the labels lack {', '.join(missing[:5])}, of which there are images. Fix: name all classes, or leave "
            "the labels out: the names of the classes serve"
        )
    return [*found.labels, *(label for label in given if label not in found.labels)]


def _classify(vectors: Vectors, asked: _Asked, errors: Errors) -> None:
    """Print and write what is predicted, as it comes where a pipe takes it."""
    from rich.console import Console

    from clipline.classify import predict, show
    from clipline.classify.predict import Prediction

    console, overview, objects = Console(), show.Overview(), []
    classes = predict.prepare(vectors.model, asked.labels, asked.templates)
    top = min(asked.top, len(asked.labels))
    with ExitStack() as stack:
        table = stack.enter_context(show.Csv(asked.csv, top)) if asked.csv else None
        for found in predict.predict(vectors, asked.labels, classes, top):
            if table:
                table.add(found)
            if asked.as_json:
                objects.append(show.as_object(found))
            if not isinstance(found, Prediction):
                errors.add(found)
            elif console.is_terminal:
                overview.add(found)
            elif not asked.as_json:
                typer.echo(show.line(found))
    if asked.as_json:
        typer.echo(show.to_json(objects))
    elif console.is_terminal:
        overview.print(console)
    if asked.csv:
        typer.echo(f"written: {asked.csv}", err=True)


def _evaluate(vectors: Vectors, labelled: Labelled, asked: _Asked, errors: Errors, confusion: Path | None) -> None:
    """Predict all, then print the figures."""
    from clipline.classify import evaluate, predict, show
    from clipline.classify.confusion import draw
    from clipline.classify.predict import Prediction

    result = evaluate.Evaluation(labelled.classes, asked.labels)
    classes = predict.prepare(vectors.model, asked.labels, asked.templates)
    top = min(asked.top, len(asked.labels))
    with ExitStack() as stack:
        table = stack.enter_context(show.Csv(asked.csv, top, truth=True)) if asked.csv else None
        for found in predict.predict(vectors, asked.labels, classes, max(top, evaluate.TOP)):
            if isinstance(found, Prediction):
                result.add(labelled.class_of(found.path), [label for label, _ in found.labels])
            else:
                errors.add(found)
            if table:
                table.add(found, found.path.partition("/")[0])
    _print_figures(result, asked.as_json)
    if asked.csv:
        typer.echo(f"written: {asked.csv}", err=True)
    if confusion:
        draw(result, confusion)
        typer.echo(f"drawn: {confusion}", err=True)


def _print_figures(result: Evaluation, as_json: bool) -> None:
    from rich.console import Console

    from clipline.classify import show

    console = Console()
    if as_json:
        typer.echo(show.to_json(result.as_dict()))
        return
    if console.is_terminal:
        show.print_classes(result, console)
    else:
        for line in show.class_lines(result):
            typer.echo(line)
    typer.echo(show.summary(result), err=not console.is_terminal)
