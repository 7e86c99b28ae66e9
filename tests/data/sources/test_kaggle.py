"""The real kaggle package, against a server of our own and with no credentials at all."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipline.data.sources import kaggle
from clipline.errors import CliplineError, UsageError

ROOT = Path(__file__).parents[3]
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "src")])

NAME = "someone/flickr8k"


class Server:
    """Answers as Kaggle does: its API redirects to a store. cut_after: bytes after which a download breaks off."""

    def __init__(self, content: bytes) -> None:
        self.content, self.cut_after, self.status, self.ranges, self.downloads = content, None, 200, [], 0
        self.tag, self.active = '"one"', True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(404)
                self.end_headers()

            def do_POST(self):
                length = int(self.headers.get("Content-Length") or 0)
                asked = json.loads(self.rfile.read(length))
                if self.path.endswith("/IntrospectToken"):
                    self.reply_json(200, {"active": server.active, "username": "someone"})
                elif server.status != 200:
                    self.reply_json(server.status, {"code": server.status, "message": "no"})
                else:
                    assert self.path == "/v1/datasets.DatasetApiService/DownloadDataset"
                    server.asked, server.authorization = asked, self.headers["Authorization"]
                    self.send_response(302)
                    self.send_header("Location", f"{server.address}/store/archive.zip")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def do_GET(self):
                assert self.path == "/store/archive.zip"
                self.reply_file()

            def reply_json(self, status, value):
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def reply_file(self):
                server.downloads += 1
                start = 0
                if "Range" in self.headers and self.headers.get("If-Range") == server.tag:
                    start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
                    server.ranges.append(start)
                body = server.content[start:]
                self.send_response(206 if start else 200)
                for key, value in {
                    "Content-Type": "application/zip",
                    "Content-Length": str(len(body)),
                    "Accept-Ranges": "bytes",
                    "ETag": server.tag,
                    "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT",
                }.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body[: server.cut_after])

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=[0.05], daemon=True).start()


@pytest.fixture
def archive(data, tmp_path):
    files = data.kaggle_layout() | {"Images/noise.jpg": os.urandom(3_000_000)}
    return data.write_zip(tmp_path / "served.zip", files).read_bytes()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No credentials but a legacy key in the environment, which kaggle takes without asking its server."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "secret")


@pytest.fixture
def served(archive, home, monkeypatch):
    from kagglesdk import kaggle_env

    server = Server(archive)
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.address)
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_download_becomes_a_raw_folder(served, data, fetch):
    found = fetch("kaggle", NAME, expect={"images": 3, "captions": 6})
    assert found.rows[1:] == data.ROWS
    assert (found.source["kind"], found.source["path"]) == ("kaggle", NAME)
    assert (served.asked["ownerSlug"], served.asked["datasetSlug"]) == ("someone", "flickr8k")


def test_a_token_is_checked_and_used(served, fetch, monkeypatch):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    served.active = False
    with pytest.raises(CliplineError, match="wants an API token"):
        fetch("kaggle", NAME)
    served.active = True
    assert fetch("kaggle", NAME).source["images"] == 3


def test_a_broken_download_goes_on_in_the_next_run(served, fetch, monkeypatch, tmp_path):
    monkeypatch.setattr(kaggle, "RETRIES", 0)
    served.cut_after = 2_000_000
    with pytest.raises(CliplineError, match=r"Kaggle cannot be reached.*run again; what was downloaded is kept"):
        fetch("kaggle", NAME)
    part = next((tmp_path / "cache").rglob("*.part"))
    kept = part.stat().st_size
    assert 0 < kept <= 2_000_000
    served.cut_after = None
    assert fetch("kaggle", NAME).source["images"] == 3
    assert served.ranges == [kept]


def test_a_part_of_another_version_is_not_joined(served, archive, data, fetch, monkeypatch, tmp_path):
    monkeypatch.setattr(kaggle, "RETRIES", 0)
    served.cut_after = 2_000_000
    with pytest.raises(CliplineError):
        fetch("kaggle", NAME)
    files = data.kaggle_layout() | {"Images/noise.jpg": os.urandom(3_000_000)}
    served.content, served.tag, served.cut_after = (
        data.write_zip(tmp_path / "new.zip", files).read_bytes(), '"two"', None,
    )  # fmt: skip
    assert fetch("kaggle", NAME).source["images"] == 3
    assert served.ranges == []


def test_wrong_counts_keep_the_download(served, fetch):
    with pytest.raises(CliplineError, match="expected 9 images"):
        fetch("kaggle", NAME, expect={"images": 9})
    assert fetch("kaggle", NAME, expect={"images": 3}).source["captions"] == 6
    assert served.downloads == 1


def test_a_damaged_download_is_removed(served, fetch, archive):
    served.content = archive[:-1000]
    with pytest.raises(CliplineError, match=r"(?s)damaged.*run again to download it"):
        fetch("kaggle", NAME)
    served.content = archive
    assert fetch("kaggle", NAME).source["images"] == 3


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, CliplineError, "wants an API token"),
        (403, CliplineError, "accept the terms"),
        (404, UsageError, "no such dataset"),
        (500, CliplineError, "answers 500"),
    ],
)
def test_refusals_are_one_line_each(status, kind, message, served, fetch):
    served.status = status
    with pytest.raises(kind, match=message):
        fetch("kaggle", NAME)


@pytest.mark.parametrize("credentials", [{}, {"KAGGLE_API_TOKEN": "token"}])
def test_no_network_fails_in_seconds(credentials, home, fetch, monkeypatch):
    from kagglesdk import kaggle_env

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    with pytest.raises(CliplineError, match="Kaggle cannot be reached") as caught:
        fetch("kaggle", NAME)
    assert time.monotonic() - start < 10
    assert len(str(caught.value).splitlines()) == 1


FETCH = """
import sys
from pathlib import Path
from clipline.config.base import validate
from clipline.config.dataset import Dataset
from clipline.data.sources import fetch
from kagglesdk import kaggle_env
from stages.common import run_stage
if len(sys.argv) > 2:
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = sys.argv[2]
values = dict(kind="kaggle", path="someone/flickr8k", source={}, expect=dict(images=None, captions=None), captions={},
              split=dict(kind="flickr8k"))
run_stage(lambda: fetch(validate(Dataset, values, "x"), Path(sys.argv[1], "raw"), Path(sys.argv[1], "cache", "x")))
"""


def test_the_readme_explains_the_token_in_the_words_of_the_error():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert kaggle.TOKEN_HELP in " ".join(readme.split())


def fetch_apart(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Fetch in a process of its own, since the kaggle package finds its token files when it is imported."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    environment = inherited | {"HOME": str(folder / "home"), "PYTHONPATH": PYTHONPATH} | environment
    command = [sys.executable, "-c", FETCH, str(folder), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


LEGACY = {"username": "someone", "key": "secret"}
LEGACY_VARIABLES = {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "secret"}
BASIC, BEARER = "Basic c29tZW9uZTpzZWNyZXQ=", "Bearer token"


@pytest.mark.parametrize(
    ("file", "content", "environment", "sent"),
    [
        (None, "", {"KAGGLE_API_TOKEN": "token"}, BEARER),
        ("access_token", "token", {}, BEARER),
        ("kaggle.json", json.dumps(LEGACY), {}, BASIC),
        (None, "", LEGACY_VARIABLES, BASIC),
    ],
)
def test_each_way_to_give_the_token_works(file, content, environment, sent, served, tmp_path):
    if file:
        (tmp_path / "home" / ".kaggle").mkdir(parents=True)
        (tmp_path / "home" / ".kaggle" / file).write_text(content)
    done = fetch_apart(tmp_path, served.address, **environment)
    assert done.returncode == 0, done.stderr
    assert served.authorization == sent
    assert (tmp_path / "raw" / "captions.csv").is_file()


@pytest.mark.parametrize(
    ("home", "credentials"), [("/proc/self", LEGACY_VARIABLES), ("/dev/null/home", {"KAGGLE_API_TOKEN": "token"})]
)
def test_credentials_in_the_environment_need_no_home(home, credentials, served, tmp_path):
    """A home that cannot be written, and one that is none."""
    done = fetch_apart(tmp_path, served.address, HOME=home, **credentials)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "raw" / "captions.csv").is_file()


def test_credentials_in_the_environment_need_not_read_the_home(served, monkeypatch, fetch, tmp_path):
    """Another user's home, such as /root in a container that runs as somebody else."""
    from kagglesdk import kaggle_env

    def read(path):
        if "home" in path:
            raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(kaggle_env, "_get_access_token_from_file", read)
    assert fetch("kaggle", NAME).source["images"] == 3
    assert os.environ["HOME"] == str(tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("home", ["", "/proc/self"])
def test_without_credentials_one_line_says_how_to_get_a_token(home, tmp_path):
    done = fetch_apart(tmp_path, HOME=home or str(tmp_path / "home"))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.endswith(f"Kaggle wants an API token, and no valid one was found. Fix: {kaggle.TOKEN_HELP}")
    assert not (tmp_path / "raw").exists()
