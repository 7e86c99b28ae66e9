"""What a text may be: a query, a label, a prompt or a caption."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clipline.errors import KindError, UsageError, shorten


def as_texts(values: Any, what: str = "text") -> list[str]:
    """One text, or several in any iterable (a NumPy array, a column of a data frame), as a list of str.

    what: each one is, for messages. Raises KindError where one is no str, and UsageError where one is empty or is not
    valid Unicode, as arguments of a command are not in another encoding than the terminal's. The message names it.
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
        if not text.strip():
            raise UsageError(f"{name} is empty. Fix: say it in words")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name} is not valid text: '{shorten(text)}'. Fix: write it in UTF-8") from None
    return [str(text) for text in values]
