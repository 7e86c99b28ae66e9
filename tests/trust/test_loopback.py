"""Servers that the project starts listen on the loopback interface only, unless asked otherwise.

Their sockets are looked at in tests/app/test_serve.py (the page) and tests/embed/test_ray.py (Ray).
"""

import importlib
import inspect
import os
import re
import socket
import subprocess
from pathlib import Path

from clipline.app import serve

ROOT = Path(__file__).parents[2]


def test_make_ui_names_the_address_itself():
    """MLflow's own default is the same, but MLFLOW_HOST in the environment would change it."""
    environment = {**os.environ, "MLFLOW_HOST": "0.0.0.0"}
    made = subprocess.run(["make", "-n", "ui"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    (command,) = re.findall(r"mlflow ui .*", made.stdout.replace("\\\n", " "))
    assert "--host 127.0.0.1" in command and "MLFLOW_DISABLE_TELEMETRY=true" in made.stdout


def test_the_page():
    host = inspect.signature(importlib.import_module("clipline.cli.app").app).parameters["host"].default
    assert host == "127.0.0.1"
    with serve.listen(host, 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1" and not serve.is_public(listening)
    with serve.listen("0.0.0.0", 0) as listening:  # asked for: the command then warns
        assert serve.is_public(listening) and listening.family == socket.AF_INET


def test_no_source_opens_to_others():
    """What would listen everywhere, or ask a service for a public address."""
    files = [path for folder in ("src", "stages", "bench") for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "dvc.yaml"]
    pattern = re.compile(r"0\.0\.0\.0|INADDR_ANY|share=True|bind\(\(['\"]['\"]|host=['\"]::|--host (?!127\.0\.0\.1)")
    mentions = {
        (str(path.relative_to(ROOT)), line.strip())
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    }
    # The help of `clipline app --host`, and messages about that option.
    assert {file for file, _ in mentions} <= {"src/clipline/cli/app.py", "src/clipline/app/serve.py"}
    assert not [line for _, line in mentions if "default" in line or "listen(" in line]
