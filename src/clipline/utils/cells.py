"""What a cell of a table holds: an image's path, or its file in some writing; one text, or a list of them."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
from typing import Any
from urllib.parse import unquote_to_bytes

# How the files begin that image.py opens, and HEIC, of which it says that it cannot be read. Paths begin like none.
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a.{6}\0|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|BM.{4}\0{4}|\0{3}.ftyp|"
    rb"\0{3}\x0cjP  |\xff\x4f\xff\x51|P[1-6]\n",
    re.DOTALL,
)
_DATA_URI = re.compile(r"data:(?:(?:image|application)/[^,]*|;base64),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
_URL_SAFE = str.maketrans("-_", "+/")
# How Python, and so pandas, writes bytes and the hub's structs as text.
_PYTHON = ("b'", 'b"', "{'bytes': ")
LONGEST_PATH = 4096
# A list of texts as JSON, Python and NumPy (without commas) write it.
_STRING = r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\""""
_LIST = re.compile(rf"\[\s*+(?:(?:{_STRING}|None|null|nan)\s*+(?:,\s*+)?+)*+\]", re.DOTALL)


def image_or_path(cell: Any) -> bytes | str | None:
    """The bytes of the image file that a cell holds, else the path that it names; None where it is empty.

    An image is bytes, the hub's {"bytes", "path"}, or as text base64, a `data:` URI or Python's b'...'. Bytes that
    begin like no image file are a path if they may be one, which the system's encoding then decodes.
    """
    if isinstance(cell, dict):
        data, path = cell.get("bytes"), cell.get("path")
        found = image_or_path(path if data is None else data)
        return data if isinstance(data, bytes) and not isinstance(found, bytes) else found
    if isinstance(cell, bytes):
        if _SIGNATURE.match(cell):
            return cell
        text = os.fsdecode(cell)
        return _image_in(text) or (cell if "\0" in text or len(cell) > LONGEST_PATH else text or None)
    return (_image_in(cell) or cell) if cell else None


def _image_in(text: str) -> bytes | str | None:
    if uri := _DATA_URI.match(text):
        body = text[uri.end() :]
        return _from_base64(body) if uri[0].lower().endswith(";base64,") else unquote_to_bytes(os.fsencode(body))
    if text.startswith(_PYTHON):
        try:
            return image_or_path(ast.literal_eval(text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    # The start is looked at first: most cells are paths, and base64 of a photo is long.
    if _SIGNATURE.match(_from_base64(text[:60])) and _BASE64.fullmatch(letters := "".join(text.split())):
        return _from_base64(letters)
    return None


def _from_base64(text: str) -> bytes:
    """What the letters of `text` come to, with or without padding; others are passed over."""
    letters = re.sub(r"[^A-Za-z0-9+/]", "", text.translate(_URL_SAFE))
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return base64.b64decode(letters + "=" * (-len(letters) % 4))


def texts(cell: str) -> list[str]:
    """The texts of a cell: each one of a list that is written as text, such as ["a", "b"], else the cell itself."""
    cell = cell.strip()
    if not _LIST.fullmatch(cell):
        return [cell]
    try:
        found = [text for text in json.loads(cell) if text is not None]
    except ValueError:
        found = [_literal(text) for text in re.findall(_STRING, cell, re.DOTALL)]
    # An escape may name half of a character, which no file can hold.
    return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip() for text in found]


def _literal(text: str) -> str:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a line break, or an escape that is none
        return text[1:-1]
