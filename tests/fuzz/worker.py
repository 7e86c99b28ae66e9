"""One target under libFuzzer: `python worker.py TARGET [libFuzzer's arguments]`; see run.py.

What is watched for new edges is Python: Pillow's and zlib's C code is run, but its branches are not counted.
"""

from __future__ import annotations

import importlib
import sys

import atheris

# Imported by the interpreter itself on some versions, before it can be instrumented.
STANDARD = ("zipfile", "tarfile", "gzip", "bz2", "lzma", "_compression", "csv", "html")
INCLUDE = [*STANDARD, "PIL", "clipline", "targets"]

for name in STANDARD:
    sys.modules.pop(name, None)
with atheris.instrument_imports(include=INCLUDE):
    for name in STANDARD:
        importlib.import_module(name)
    from PIL import Image

    Image.init()
    import targets


def main() -> None:
    target = targets.TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
