"""requirements.lock: every package pinned and hashed, no address in it; and what pyproject asks for is in it."""

import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries() -> dict[str, str]:
    """Package and version -> its lines with hashes."""
    plain = "\n".join(line for line in LOCK.splitlines() if not line.lstrip().startswith("#"))
    joined = plain.replace("\\\n", " ")
    blocks = {}
    for line in filter(str.strip, joined.splitlines()):
        head = line.split("--hash", 1)[0].strip()
        blocks.setdefault(f"{canonicalize_name(Requirement(head).name)} {head}", line)
    return blocks


def test_every_entry_is_pinned_and_hashed():
    assert len(entries()) > 150
    for head, line in entries().items():
        requirement = Requirement(line.split("--hash", 1)[0].strip())
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), head
        hashes = re.findall(r"--hash=\S+", line)
        assert hashes and all(HASH.fullmatch(one) for one in hashes), head
        assert requirement.url is None


def test_no_address_and_no_option():
    """Another index, a URL or a path would be used as it is; the hash of a link proves nothing but the link."""
    code = [line for line in LOCK.splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in code if re.search(r"://|git\+|file:|@ |\.\./", line)]
    assert not [line for line in code if line.startswith("-")]
    assert "://" not in LOCK


def test_what_pyproject_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # `cpu` and `gpu` exclude each other; the lock has onnxruntime-gpu.
    wanted = [*project["dependencies"], *(one for name, ones in extras.items() if name != "cpu" for one in ones)]
    locked = {Requirement(line.split("--hash", 1)[0].strip()).name for line in entries().values()}
    names = {Requirement(one).name for one in wanted} - {"clipline"}
    assert {canonicalize_name(name) for name in names} <= {canonicalize_name(name) for name in locked}
    assert "onnxruntime" not in locked


def test_setup_asks_for_the_hashes():
    """`make setup` refuses a package whose bytes differ."""
    made = subprocess.run(["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install --quiet --require-hashes --requirement requirements.lock" in made
    assert "--no-deps --editable ." in made
