"""The pipeline's stages: read the settings, call one function, write files, log.

`dvc exp run --temp` works in a copy of the repository, but an editable install points at the original: put the
copy's own `src` first, so that a run uses the code that its DVC lock records.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
