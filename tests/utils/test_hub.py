"""The hub, simulated by a local server: it is used, and without it the error comes within seconds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers import free_port

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "org/good": {"tokenizer.json": b'{"a": 1}', "config.json": b"{}", "weights.bin": b"large"},
    "org/bare": {"README.md": b""},
}

FETCH = """
import json, sys, time
from clipline.utils import hub
from clipline.errors import CliplineError
hub.ANSWER_SECONDS = 2.0
for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        folder = hub.fetch(name, ["tokenizer.json"], ["config.json"], "text.name", "a local folder")
        result = sorted(path.name for path in folder.iterdir())
    except CliplineError as error:
        result = str(error)
    print(json.dumps([result, time.monotonic() - start]))
"""


class Handler(BaseHTTPRequestHandler):
    """The three requests of huggingface_hub: the commit, the list of files, and each file."""

    protocol_version = "HTTP/1.1"

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])
        files = FILES.get(name)
        if path == "/":
            self.reply(200)
        elif files is None:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            tree = [{"type": "file", "path": file, "size": len(body), "oid": file} for file, body in files.items()]
            self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": file} for file in files]
            body = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
            self.reply(200, body, {"Content-Type": "application/json"})
        else:
            file = path.rsplit("/", 1)[1]
            self.reply(200, files[file], {"ETag": f'"{file}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(port: int, home: Path, *names: str, **environment: str) -> list[tuple[list[str] | str, float]]:
    """The result or error for each name in a separate process, and the seconds it took."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    clean |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", FETCH, *names],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_only_the_wanted_files_come_and_then_the_cache_serves(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    port = server.server_address[1]
    [(files, _)] = fetch(port, tmp_path, "org/good")
    assert files == ["config.json", "tokenizer.json"]
    assert not any("weights.bin" in path for path in server.asked)
    server.shutdown()
    server.server_close()
    [(files, seconds)] = fetch(port, tmp_path, "org/good")
    assert files == ["config.json", "tokenizer.json"]
    assert seconds < 10


def test_no_network_fails_at_once_with_the_fix(tmp_path: Path) -> None:
    (first, seconds), (second, again) = fetch(free_port(), tmp_path, "org/good", "org/other")
    assert first.startswith("text.name: the hub (http://127.0.0.1:")
    assert "org/good is not in its cache. Fix: a local folder" in first
    assert "\n" not in first
    assert "org/other" in second
    assert seconds < 10
    assert again < 1


def test_a_silent_server_does_not_hold_the_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        (first, seconds), (_, again) = fetch(silent.getsockname()[1], tmp_path, "org/good", "org/good")
        assert time.monotonic() - start < 30
    assert "org/good is not in its cache" in first
    assert 1.5 < seconds < 10
    assert again < 1


def test_offline_mode_asks_nobody(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    [(result, _)] = fetch(server.server_address[1], tmp_path, "org/good", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in result
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "org/nothing",
            "text.name: the hub has no org/nothing, or it is private (then set HF_TOKEN). Fix: a local folder",
        ),
        ("org/bare", "text.name: the hub's org/bare has none of tokenizer.json. Fix: a local folder"),
        ("not an id", "text.name: 'not an id' is no hub id (owner/name)"),
    ],
)
def test_wrong_names_are_one_line(server: ThreadingHTTPServer, tmp_path: Path, name: str, wanted: str) -> None:
    [(result, _)] = fetch(server.server_address[1], tmp_path, name)
    assert result == wanted
