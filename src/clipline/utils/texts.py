"""What a text may be: a query, a label, a prompt or a caption."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clipline.errors import KindError, UsageError, shorten


def as_texts(values: Any, what: str = "text", *, allow_empty: bool = False) -> list[str]:
    """One text, or several in any iterable (a NumPy array, a column of a data frame), as a list of str.

    what: the kind of text, for messages. allow_empty: captions of a dataset may be empty; a query is then a mistake.
    Raises KindError where one is not a str, and UsageError where one is empty or not valid Unicode, as arguments of a
    command in another encoding than the terminal's. The message names the element.
    """
    if isinstance(values, str):
        values = [values]
    elif isinstance(values, bytes) or not isinstance(values, Iterable):
        raise KindError(f"{what}s are str or a list of them, and not {type(values).__name__}")
    values = list(values)
    for number, text in enumerate(values):
        name = f"the {what}" if len(values) == 1 else f"{what} {number}"
        if not isinstance(text, str):
            raise KindError(f"{name} is of type {type(text).__name__}, and not str")
        if not allow_empty and not text.strip():
            raise UsageError(f"{name} is empty. Fix: say it in words")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name} is not valid text: '{shorten(text)}'. Fix: write it in UTF-8") from None
    return [str(text) for text in values]
