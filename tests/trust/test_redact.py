"""Secrets are removed from every text that is printed or written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipline.errors import SECRETS, CliplineError, UsageError, address, redact

ROOT = Path(__file__).parents[2]

SECRET = "s3cr3t-T0ken"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"cannot use http://me:{SECRET}@host:5000: refused", "cannot use http://host:5000: refused"),
        (f"cannot use http://{SECRET}@host", "cannot use http://host"),
        (f"postgresql://me:{SECRET}@db:5432/mlflow is down", "postgresql://db:5432/mlflow is down"),
        (f"s3://AKIA:{SECRET}/with/slash@bucket/photos", "s3://bucket/photos"),
        (f"http://me:{SECRET}@a http://you:{SECRET}@b", "http://a http://b"),
        (f"url='http://me:{SECRET}@host/x'", "url='http://host/x'"),
        (f"http://h/x?X-Amz-Signature={SECRET}&a=b", "http://h/x?X-Amz-Signature=…&a=…"),
        (f"retries exceeded with url: /x?sig={SECRET} (Caused", "retries exceeded with url: /x?sig=… (Caused"),
        (f"http://h/x#access_token={SECRET}", "http://h/x#access_token=…"),
    ],
)
def test_urls(text, left):
    assert redact(text) == left
    for kind in (CliplineError, UsageError):
        assert str(kind(text)) == left


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/compare-runs",
        "http://host:5000: mail me@example.org",
        "s3://bucket/me@home/photos",
        "models:/clipline@champion",
        "a@b.c, x=1, why? because=so",
        "http://host:80/a@b:c",
    ],
)
def test_other_text_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_of_the_environment(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    assert redact(f"401: token {SECRET} is not valid") == "401: token … is not valid"
    monkeypatch.setenv(name, "a")
    assert redact("a short one protects nothing") == "a short one protects nothing"


def test_addresses():
    assert address(f"https://me:{SECRET}@host:8080/photos?token={SECRET}#x") == "https://host:8080/photos"
    assert address("s3://bucket/what?/photos") == "s3://bucket/what?/photos"


def test_tracebacks_of_commands_and_stages(tmp_path):
    """An unexpected error."""
    for setting in (
        "from clipline import cli\ncli.app = fail\ncli.main()",
        "from stages.common import run_stage\nrun_stage(fail)",
    ):
        code = f"def fail(**settings):\n    raise ValueError('http://me:{SECRET}@host/?key={SECRET}')\n{setting}"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]  # in a folder of its own, as a stage locks it
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "Traceback" in done.stderr and "ValueError: http://host/?key=…" in done.stderr


def test_what_tracking_says(monkeypatch, capsys):
    """Lines about the server, what becomes a tag, and the address of the page that compares runs."""
    from clipline.tracking import compare, messages

    where = f"http://me:{SECRET}@host:5000"
    messages.say(f"cannot write to {where} (refused): the work goes on, and what is logged waits")
    assert capsys.readouterr().err == (
        "tracking: cannot write to http://host:5000 (refused): the work goes on, and what is logged waits\n"
    )
    assert messages.reason(OSError(f"{where}/api failed")) == "http://host:5000/api failed"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    runs = [compare.LoggedRun(name, "1", name, None, "FINISHED", {}, {}) for name in ("a", "b")]
    assert compare.comparison_url(runs).startswith("http://host:5000/#/compare-runs")
