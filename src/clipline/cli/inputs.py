"""Labels and templates that users give: on the command line, or in files with one on each line."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from clipline.classify.zeroshot import DEFAULT_TEMPLATES, TEMPLATES, check_templates
from clipline.errors import UsageError


def read_labels(labels: str | None, file: Path | None) -> list[str]:
    """The labels of `--labels` (separated by commas) or `--labels-file` (one on each line).

    Raises UsageError where both or none are given, a label comes twice, or there are fewer than two.
    """
    if (labels is None) == (file is None):
        raise UsageError("name the labels, with either --labels dog,cat or --labels-file FILE")
    names = read_lines(file, "labels") if file else [name.strip() for name in labels.split(",") if name.strip()]
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f"the label {name!r} comes twice: its probability would be shared. Fix: name it once")
    if len(names) < 2:
        raise UsageError(f"{len(names)} label{'s' * (len(names) != 1)}: there is nothing to choose. Fix: name two")
    return names


def read_templates(templates: Sequence[str], name: str | None) -> list[str]:
    """The templates given with `--template`, or those of `--templates`: a name in TEMPLATES, or a file.

    Raises UsageError where both are given, the name is neither, or a template has no `{}`.
    """
    if templates and name:
        raise UsageError("--template and --templates cannot both be used")
    if templates:
        chosen = list(templates)
    elif name is None or name in TEMPLATES:
        chosen = TEMPLATES[name or DEFAULT_TEMPLATES]
    elif Path(name).is_file():
        chosen = read_lines(Path(name), "templates")
    else:
        raise UsageError(f"--templates {name}: neither a file nor one of {', '.join(TEMPLATES)}")
    check_templates(chosen)
    return chosen


def read_lines(file: Path, what: str) -> list[str]:
    """The lines of a text file that are not empty; `-` is standard input. what: the lines are, for messages.

    Raises UsageError where it cannot be read or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        # utf-8-sig: editors on Windows begin a file with a byte order mark.
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not a text in UTF-8. Fix: save the {what} as UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
