"""`clipline classify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipline.cli.options import CsvOption, JsonOption, ProviderName, ProviderOption, ThreadsOption, model_option
from clipline.errors import UsageError

if TYPE_CHECKING:
    from clipline.classify.evaluate import Evaluation
    from clipline.classify.images import Vectors
    from clipline.classify.labelled import Labelled
    from clipline.classify.predict import Errors, Prediction
    from clipline.embed.item import Failure

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


ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES",
        help="Image files; or a folder; or embeddings, whose images are not read again; or what else `clipline "
        "embed` takes. With --evaluate: folders of images, one for each class, or labelled parquet files.",
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="A prompt with {} for the label; may be repeated, and their mean is used."),
]
TemplatesOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="A set of prompts: captions, photo, plain, imagenet, cifar10, or a file with one on each line.",
        show_default="captions",
    ),
]
EvaluateOption = Annotated[
    bool, typer.Option("--evaluate", help="IMAGES are labelled: print the accuracy. The labels are the class names.")
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="With --evaluate: which split, if the images are in splits.",
        show_default="test, else val, else train",
    ),
]
ConfusionOption = Annotated[
    Path | None, typer.Option(metavar="PICTURE.png", help="With --evaluate: draw the confusion matrix.")
]


def classify(
    images: ImagesArgument,
    *,
    labels: Annotated[str | None, typer.Option(metavar="A,B,...", help="The labels, separated by commas.")] = None,
    labels_file: Annotated[Path | None, typer.Option(metavar="FILE", help="The labels, one on each line.")] = None,
    template: TemplateOption = None,
    templates: TemplatesOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many labels to give each image.")] = 5,
    evaluate: EvaluateOption = False,
    split: SplitOption = None,
    confusion: ConfusionOption = None,
    model: Annotated[
        Path | None, model_option("The exported model.", show_default="that of the embeddings, else models/onnx")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The folder of the images of embeddings, or of a list.")] = None,
    csv: CsvOption = None,
    as_json: JsonOption = False,
    max_errors: Annotated[int, typer.Option(min=0, help="Exit with 3 if more images than this are unusable.")] = 0,
    threads: ThreadsOption = None,
    provider: ProviderOption = ProviderName.auto,
) -> None:
    """Say which of your labels fits each image best, without training (zero-shot), with probabilities.

    They are shared out among your labels alone: an image that none of them fits gets one all the same. Words that
    captions use, such as `dog` or `beach`, do better than codes.
    """
    from clipline.classify import zeroshot
    from clipline.classify.confusion import draw
    from clipline.classify.images import Images, open_for_images, open_vectors
    from clipline.classify.labelled import open_labelled
    from clipline.classify.predict import Errors
    from clipline.cli.inputs import read_labels, read_templates
    from clipline.cli.output import print_notes, say
    from clipline.pictures.gallery import check_path

    prompts = read_templates(template or [], templates)
    if not evaluate and (split or confusion):
        raise UsageError("--split and --confusion are for labelled images. Fix: add --evaluate")
    if confusion:
        check_path(confusion)
    labelled, errors = None, Errors()
    if evaluate:
        if len(images) != 1 or root:
            raise UsageError("--evaluate takes one folder or parquet file of labelled images, and no --root")
        labelled = open_labelled(Path(images[0]), split)
        vectors = Images(labelled.source, open_for_images(model, provider.value, threads), threads)
        names = _with_distractors(labelled, labels, labels_file)
    else:
        names = read_labels(labels, labels_file)
        vectors = open_vectors(images, model=model, root=root, provider=provider.value, threads=threads)
    results = _predict(vectors, names, prompts, top, csv, errors, truth=evaluate)
    if labelled:
        evaluation = _evaluate(results, labelled, names, as_json)
    else:
        _print(results, as_json, to_end=csv is not None)
    if csv:
        say(f"written: {csv}")
    if confusion:
        draw(evaluation, confusion)
        say(f"drawn: {confusion}")
    print_notes([*vectors.notes, *zeroshot.notes(vectors.model, zeroshot.prompts(names, prompts))])
    print_notes(errors.enforce(vectors.total, max_errors))


def _with_distractors(labelled: Labelled, labels: str | None, file: Path | None) -> list[str]:
    """The classes in words; after them the labels given that no class has."""
    from clipline.cli.inputs import read_labels

    if labels is None and file is None:
        return labelled.labels
    given = read_labels(labels, file)
    if missing := [label for label in labelled.labels if label not in given]:
        raise UsageError(
            f"the labels lack {', '.join(missing[:5])}, of which there are images. Fix: name all classes, or leave "
            "the labels out: the names of the classes serve"
        )
    return [*labelled.labels, *(label for label in given if label not in labelled.labels)]


def _predict(
    vectors: Vectors, labels: list[str], prompts: list[str], top: int, csv: Path | None, errors: Errors, *, truth: bool
) -> Iterator[Prediction | Failure]:
    """The results as they come, with at least TOP labels for `truth`; all are written to the CSV, failures counted."""
    from clipline.classify import evaluate, predict, show

    classes = predict.prepare(vectors.model, labels, prompts)
    top = min(top, len(labels))
    with show.Csv(csv, top, truth=truth) if csv else nullcontext() as table:
        for result in predict.predict(vectors, labels, classes, max(top, evaluate.TOP) if truth else top):
            if table:
                table.add(result, result.path.partition("/")[0])
            if not isinstance(result, predict.Prediction):
                errors.add(result)
            yield result


def _print(results: Iterator[Prediction | Failure], as_json: bool, *, to_end: bool) -> None:
    """Print the labels of each image; in a pipe as they come, and `to_end` also where nobody reads them any more."""
    from rich.console import Console

    from clipline.classify import show
    from clipline.classify.predict import Prediction
    from clipline.cli.output import print_json
    from clipline.utils.streams import nobody_reads

    console, overview, objects = Console(), show.Overview(), []
    for result in results:
        if not to_end and nobody_reads():
            return
        if as_json:
            objects.append(show.as_object(result))
        elif isinstance(result, Prediction) and console.is_terminal:
            overview.add(result)
        elif isinstance(result, Prediction):
            typer.echo(show.line(result))
    if as_json:
        print_json(objects)
    elif console.is_terminal:
        overview.print(console)


def _evaluate(
    results: Iterator[Prediction | Failure], labelled: Labelled, labels: list[str], as_json: bool
) -> Evaluation:
    """Compare all results with the classes, and print the accuracy."""
    from rich.console import Console

    from clipline.classify import show
    from clipline.classify.evaluate import Evaluation
    from clipline.classify.predict import Prediction
    from clipline.cli.output import print_results, say

    evaluation = Evaluation(labelled.classes, labels)
    for result in results:
        if isinstance(result, Prediction):
            evaluation.add(labelled.class_of(result.path), [label for label, _ in result.labels])
    table = partial(show.print_classes, evaluation)
    print_results(as_json, evaluation.as_dict(), table, show.class_lines(evaluation))
    if not as_json:
        say(show.summary(evaluation), err=not Console().is_terminal)
    return evaluation
