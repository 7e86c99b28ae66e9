"""What the stages wrote is read as they wrote it, or not at all."""

import json
import shutil

import pytest

from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.report import summary
from clipline.utils import checksums


@pytest.mark.parametrize("name", ["models/checkpoint/config.json", "models/run.json", "models/onnx/manifest.json"])
def test_files_that_are_not_what_was_written(workspace, gates, tmp_path, name):
    root = shutil.copytree(workspace, tmp_path / "root")
    data, path = Prepared(root / "data/prepared"), root / name
    values = json.loads(path.read_text())
    path.write_text(json.dumps(checksums.with_checksum(values)))
    assert summary.gather(root, data, gates)
    text = path.read_text()
    path.write_text(text.replace("scenes", "scebes", 1) if "scenes" in text else text.replace("1", "2", 1))
    with pytest.raises(CliplineError, match=rf"{name}: damaged: changed since it was written.*Fix: dvc repro --force"):
        summary.gather(root, data, gates)
    path.write_bytes(path.read_bytes()[:9] + b"\xff" + path.read_bytes()[10:])
    with pytest.raises(CliplineError, match=rf"{name}: damaged: "):
        summary.gather(root, data, gates)
