"""Ways in which a file gets damaged."""

from collections.abc import Iterator
from random import Random


def damaged(data: bytes, ranges: int, dice: Random) -> Iterator[tuple[str, bytes]]:
    """What it is, and the bytes: a bit flipped in each of so many ranges, then cut and lengthened files.

    Every one differs from `data`.
    """
    ranges = min(ranges, len(data))
    for number in range(ranges):
        at = dice.randrange(number * len(data) // ranges, (number + 1) * len(data) // ranges)
        changed = bytearray(data)
        changed[at] ^= 1 << dice.randrange(8)
        yield f"bit flipped at {at} of {len(data)}", bytes(changed)
    yield "cut to nothing", b""
    yield "cut in half", data[: len(data) // 2]
    yield "one byte short", data[:-1]
    yield "garbage behind", data + dice.randbytes(100)
