"""A browser without a screen, and what it looks at: a repository with two real runs, and the server of `make ui`."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from clipline import tracking
from clipline.config.run import load_run
from clipline.pictures import gallery, plots
from tests.helpers import clean_environment, free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without most of these Chromium asks its makers for updates and settings at every start.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-quic"]
# MLflow keeps quiet where it believes to be under test; a user's shell has none of these.
TESTING = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS")
RATES = (1e-3, 5e-4)
STEPS = [7, 14, 21, 28]


@dataclass(frozen=True)
class Two:
    """A repository root with two runs, which differ in the head's learning rate.

    environment: of a user's shell in it. ids, losses: of each run, and its training loss at `steps`.
    """

    folder: Path
    environment: dict[str, str]
    ids: list[str] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    steps: list[int] = field(default_factory=STEPS.copy)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, raw: Path, use_repository) -> Two:
    """Two runs of the default recipe, logged through the tracking package as the stages log them."""
    folder = tmp_path_factory.mktemp("ui") / "my repo"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "configs", folder / "configs")
    kept = {name: value for name, value in clean_environment().items() if name not in TESTING}
    made = Two(folder, {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_ROOT": str(folder)})
    with pytest.MonkeyPatch.context() as patch:
        use_repository(folder, patch)
        for number, rate in enumerate(RATES, start=1):
            _log(made, number, rate, raw)
    return made


def _log(two: Two, number: int, rate: float, raw: Path) -> None:
    """One run: the recipe with `rate`, curves over the epochs, figures of the test split, pictures."""
    recipe, yaml = Path("configs/recipe/scenes_tiny.yaml"), YAML()
    values = yaml.load(recipe)
    values["train"]["optimizer"]["lr"]["head"] = rate
    yaml.dump(values, recipe)
    run, receipt, history = load_run(), Path("models/run.json"), Path("reports/train.csv")
    settings = {
        "seed": run.params.train.seed,
        "data": run.dataset.model_dump(mode="json"),
        "recipe": run.recipe.model_dump(mode="json"),
    }
    losses = [4 / epoch + number / 10 for epoch in range(1, len(STEPS) + 1)]
    rows = [
        {"step": step, "epoch": epoch, "train_loss": loss, "val_loss": loss + 0.5, "val_t2i_r1": 10.0 * epoch}
        for epoch, (step, loss) in enumerate(zip(STEPS, losses, strict=True), start=1)
    ]
    experiment, name = run.params.tracking.experiment, run.params.recipe
    tags = tracking.base_tags(dataset=run.params.data, fingerprint="f" * 16, recipe=name, device="cpu")
    with tracking.start(
        receipt, experiment=experiment, name=name, params=settings, tags=tags, system_metrics=False
    ) as tracked:
        for row in rows:
            tracked.log_row(row)
    history.parent.mkdir(exist_ok=True)
    with history.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with tracking.resume(receipt, experiment=experiment, stage="evaluate", history=history) as later:
        later.log_metrics({"test_i2t_r1": 30.0 + number, "test_t2i_r1": 40.0 + number}, step=0)
        for picture in _pictures(number, history, raw):
            later.log_artifact(picture)
    two.ids.append(tracked.id)
    two.losses.append(losses)


def _pictures(number: int, history: Path, raw: Path) -> list[Path]:
    """Pictures by the code of the evaluate stage; those of the second run are one image wider."""
    folder = Path("reports") / str(number)
    folder.mkdir()
    paths = {name: folder / f"{name}.png" for name in ("gallery", "failures", "curves")}
    images = sorted((raw / "images").glob("*.png"))
    rows = [gallery.Row(f"run {number}", [gallery.Cell(image, image.stem) for image in images[: 2 + number]])]
    for name in ("gallery", "failures"):
        gallery.draw(rows, paths[name])
    plots.curves(history, paths["curves"])
    return list(paths.values())


class Outside:
    """A proxy that lets nothing through, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._refuse, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process ask it for all but this machine."""
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), self.url)
        return proxies | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}

    def _refuse(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection:
                self.asked.append(connection.recv(1000).split(b"\r\n")[0].decode(errors="replace"))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Ui:
    """What `make ui` started. link: as it prints it, with a port of its own. outside: what it asked of other hosts."""

    link: str
    outside: Outside


@pytest.fixture(scope="module")
def chromium() -> str:
    """The program's path."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `dev`)")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    """What the servers under test ask of other machines."""
    made = Outside()
    yield made
    made.close()


@pytest.fixture(scope="module")
def ui(chromium: str, two: Two, outside: Outside) -> Iterator[Ui]:
    """The commands of `make ui`, in the repository with the two runs, on a free port."""
    # Inside of `make test-pipeline`, too.
    dry = ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.installed", "ui"]
    told, command = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n", 1)
    port = free_port()
    link = re.search(r"http://127\.0\.0\.1:5000/[^\s\"]+", told)[0].replace(":5000/", f":{port}/")
    environment = two.environment | outside.environment
    with (two.folder.parent / "server.log").open("w+") as log:
        server = subprocess.Popen(
            ["sh", "-c", f"{command.strip()} --port {port}"],
            cwd=two.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            _wait(server, port, Path(log.name))
            yield Ui(link, outside)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(server: subprocess.Popen, port: int, log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"`make ui` did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def page(chromium: str, tmp_path: Path):
    """A page in Chromium with an empty profile; `page.requested` holds the address of each request."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=chromium, args=FLAGS, viewport={"width": 1600, "height": 1000}
        )
        context.set_default_timeout(60_000)
        (shown,) = context.pages
        shown.requested = []
        context.on("request", lambda request: shown.requested.append(request.url))
        yield shown
        context.close()
