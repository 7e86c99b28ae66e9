"""What people type: make for users without a name, and `-S` with the quoting that README shows."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("known", "home", "wanted"), [(False, "/", None), (False, "/data", "/data"), (True, "/", "/")])
def test_make_gives_dvc_a_name_and_a_home(known, home, wanted, tmp_path):
    """As in `docker run --user 12345`, which has no entry in passwd: `id` prints a number and fails."""
    (tmp_path / "id").write_text("#!/bin/sh\n" + ("echo me\n" if known else '[ "$1" = -u ] && echo 12345\n'))
    (tmp_path / "id").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": home}
    command = ["make", "--eval", 'show: ; @echo "$$USER $$HOME"', "show"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == f"{'' if known else '12345'} {wanted or ROOT / '.cache/home'}"


def readmes_override() -> str:
    """The value of README's -S that has quotes, as a shell hands it to dvc."""
    line = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if '-S "' in line)
    return shlex.split(line)[-1]


@pytest.mark.parametrize("path", ["~/my photos", "/a (1), b/c=d; e#f", "/é$x {y} [z]", "C:\\my photos"])
def test_the_quoting_that_readme_shows_takes_any_path(path, tmp_path):
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    shown = readmes_override()
    assert shown.endswith("='~/my photos'")
    ((file, overrides),) = to_path_overrides([shown.replace("~/my photos", path)]).items()
    shutil.copy(ROOT / file, tmp_path / "x.yaml")
    apply_overrides(tmp_path / "x.yaml", overrides)
    assert YAML(typ="safe").load((tmp_path / "x.yaml").read_text(encoding="utf-8"))["path"] == path
