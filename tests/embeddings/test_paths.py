"""Names that are no text get a spelling, and the spelling leads back to the same file."""

import os

import pytest

from clipline.embeddings.paths import to_name, to_text

NAMES = {
    b"plain.jpg": "plain.jpg",
    b"a b/c.jpg": "a b/c.jpg",
    "gr\u00fc\u00df/\u72ac.jpg".encode(): "gr\u00fc\u00df/\u72ac.jpg",
    b"caf\xe9.jpg": "caf%E9.jpg",
    b"\xff\xfe/\x80.png": "%FF%FE/%80.png",
    b"100%.jpg": "100%.jpg",
    b"my%20photo.jpg": "my%20photo.jpg",
    b"caf%E9.jpg": "caf%25E9.jpg",
    b"%25.jpg": "%2525.jpg",
    b"%%E9%\xe9.jpg": "%%25E9%%E9.jpg",
    b"%2\xe9.jpg": "%2%E9.jpg",
    b"%e9%7F.jpg": "%e9%7F.jpg",
}


@pytest.mark.parametrize("raw", NAMES)
def test_there_and_back(raw):
    name = os.fsdecode(raw)
    text = to_text(name)
    assert text == NAMES[raw]
    assert os.fsencode(to_name(text)) == raw
    text.encode()


def test_no_two_names_share_a_spelling():
    pieces = [b"%", b"25", b"E9", b"\xe9", b"2", b"5"]
    names = {a + b + c + d for a in pieces for b in pieces for c in pieces for d in pieces}
    assert len({to_text(os.fsdecode(name)) for name in names}) == len(names)
