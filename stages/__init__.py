"""The pipeline's stages: read the settings, call one function, write files, log.

`dvc exp run --temp` works in a copy of the repository, but an editable install points at the original: put the
copy's own `src` first, so that a run uses the code that its DVC lock records.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from clipline.utils.streams import open_missing  # noqa: E402
from clipline.utils.user import ensure_name_and_home  # noqa: E402

open_missing()  # before a library opens a file, which would get the number of a missing stream
ensure_name_and_home(f"{os.environ.get('DVC_ROOT') or ROOT}/.cache/home")
# Before anything imports torch, whose threads otherwise spin while they wait for each other: beside one busy program
# that made training ten times slower (0.4 steps/s against 5.8, measured).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
