"""Labels and templates as people write them: on the command line, or in files with one on each line."""

from __future__ import annotations

import sys
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
    found = read_lines(file, "labels") if file else [each.strip() for each in labels.split(",") if each.strip()]
    for label in found:
        if found.count(label) > 1:
            raise UsageError(f"the label {label!r} comes twice: its probability would be shared. Fix: name it once")
    if len(found) < 2:
        raise UsageError(f"{len(found)} label{'s' * (len(found) != 1)}: there is nothing to choose. Fix: name two")
    return found


def read_templates(templates: Sequence[str], name: str | None) -> list[str]:
    """The templates of `--template`, each given there, or of `--templates`, a name in TEMPLATES or a file.

    Raises UsageError where both are given, there is nothing of that name, or one has no `{}`.
    """
    if templates and name:
        raise UsageError("--template and --templates cannot both be used")
    if templates:
        found = list(templates)
    elif name is None or name in TEMPLATES:
        found = TEMPLATES[name or DEFAULT_TEMPLATES]
    elif Path(name).is_file():
        found = read_lines(Path(name), "templates")
    else:
        raise UsageError(f"--templates {name}: neither a file nor one of {', '.join(TEMPLATES)}")
    check_templates(found)
    return found


def read_lines(file: Path, what: str) -> list[str]:
    """The lines of a text file that are not empty; `-` is standard input. what: they are, for messages.

    Raises UsageError where it cannot be read or is no UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        # utf-8-sig: Windows' editors put a mark in front.
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not a text in UTF-8. Fix: save the {what} as UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
