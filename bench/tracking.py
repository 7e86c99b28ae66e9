"""What tracking costs: the same small training with MLflow's store as a file, with its server, and without, in turns.

    python bench/tracking.py
    python bench/tracking.py --images 400 --epochs 2 --repeats 1

The training is the train stage's own, on scenes: an epoch of seconds, so a point logged per epoch weighs more here than
in any real one. Start-up (imports, and the store with the new run in it) and the end of a run are measured apart from
the steps; so is the time that the training itself waits for log calls.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from command import launch
from contenders import apart
from machine_facts import machine_facts
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from clipline.errors import CliplineError
from clipline.utils import cores

ROOT = Path(__file__).resolve().parents[1]
MOST_PER_STEP, MOST_START_UP = 0.03, 10.0
PARTS = ("imports", "store", "end")
console = Console()


@dataclass(frozen=True)
class Job:
    """workspace: where the stages' files lie. store: `none`, `file`, or the address of a server."""

    workspace: Path
    store: str
    threads: int


class Timed:
    """What `stages.train.fit` logs into, with the seconds that its calls took; without a run they do nothing."""

    def __init__(self, run: Any | None) -> None:
        self._run, self.seconds, self.calls = run, 0.0, 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> None:
            begun = time.perf_counter()
            if self._run:
                getattr(self._run, name)(*arguments, **named)
            self.seconds, self.calls = self.seconds + time.perf_counter() - begun, self.calls + 1

        return call


def training(job: Job) -> dict[str, Any]:
    """Seconds of one training: imports, store and end of tracking; all steps; log calls among them."""
    os.chdir(job.workspace)
    os.environ["DVC_ROOT"] = str(job.workspace)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if job.store not in ("none", "file"):
        os.environ["MLFLOW_TRACKING_URI"] = job.store
    sys.path.insert(0, str(ROOT))
    import torch

    from clipline.config.run import load_run
    from clipline.data.prepared import Prepared
    from clipline.tracking.environment import import_mlflow
    from clipline.train.loop import Trainer
    from clipline.train.state import CheckpointManager
    from stages import train

    torch.set_num_threads(job.threads)
    run, data, device = load_run(), Prepared(Path("data/prepared")), torch.device("cpu")
    marks = [time.perf_counter()]
    if job.store != "none":
        import_mlflow()
    marks.append(time.perf_counter())
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with train.opened(run, data, device, None) if job.store != "none" else contextlib.nullcontext() as opened:
            marks.append(time.perf_counter())
            with tempfile.TemporaryDirectory(dir=job.workspace) as scratch:
                checkpoints, cache = CheckpointManager(Path(scratch)), job.workspace / ".cache"
                trainer = Trainer(
                    run.recipe,
                    data,
                    seed=0,
                    device=device,
                    cache=cache,
                    checkpoints=checkpoints,
                    notes={"store": job.store},
                )
                book = Timed(opened)
                begun = time.perf_counter()
                train.fit(trainer, run, data, book)
                marks.append(time.perf_counter())
        marks.append(time.perf_counter())
    found = dict(zip(PARTS, (marks[1] - marks[0], marks[2] - marks[1], marks[4] - marks[3]), strict=True))
    return found | {
        "training": marks[3] - begun,
        "steps": trainer.step.number,
        "log_seconds": book.seconds,
        "log_calls": book.calls,
    }


def main(
    images: Annotated[int, typer.Option(min=60, help="Scenes; a tenth of them for validation.")] = 1600,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int | None, typer.Option(min=1, show_default="all cores")] = None,
    out: Annotated[Path | None, typer.Option(help="Write JSON too.")] = None,
) -> None:
    """Measure, print a table, write JSON."""
    rounds: list[dict[str, dict]] = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = prepared(Path(folder) / "workspace", images, epochs)
        with server(Path(folder)) as address:
            stores = {"none": "none", "file": "file", "server": address}
            for number in range(repeats):
                rounds.append({})
                for name, store in stores.items():
                    found = apart(training, Job(workspace, store, threads or cores.available()))
                    rounds[-1][name] = found
                    each = 1000 * found["training"] / found["steps"]
                    console.print(f"round {number + 1} of {repeats}: {name}: {each:.1f} ms a step")
    settings = {"images": images, "epochs": epochs, "repeats": repeats, "threads": threads or cores.available()}
    results = {"machine": machine_facts(), "settings": settings, **summary(rounds), "details": rounds}
    show(results)
    if out:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def prepared(workspace: Path, images: int, epochs: int) -> Path:
    """A folder in which the train stage can run: so many scenes, drawn and packed by the stages before it."""
    workspace.mkdir()
    shutil.copytree(ROOT / "configs", workspace / "configs")
    shutil.copy(ROOT / "params.yaml", workspace)
    held = images // 10
    data = {"source.images": images, "expect.images": images, "expect.captions": 5 * images}
    _edit(workspace / "params.yaml", {"data": "scenes", "recipe": "scenes_tiny"})
    _edit(workspace / "configs/data/scenes.yaml", data | {"split.val": held, "split.test": held})
    _edit(workspace / "configs/recipe/scenes_tiny.yaml", {"train.epochs": epochs})
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(workspace)}
    for stage in ("download", "preprocess"):
        command = [sys.executable, "-m", f"stages.{stage}"]
        done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CliplineError(f"the stage {stage} failed:\n{done.stderr}")
    return workspace


def _edit(path: Path, changes: dict[str, Any]) -> None:
    yaml = YAML()
    values = yaml.load(path)
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = values
        for part in parents:
            place = place[part]
        place[last] = value
    yaml.dump(values, path)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a real `mlflow server` on this machine, with a store of its own in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=os.environ | quiet, stdout=file, stderr=file, start_new_session=True, cwd=folder
        )
    try:
        _wait(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > until or process.poll() is not None:
            raise CliplineError(f"mlflow server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def summary(rounds: list[dict[str, dict]]) -> dict[str, Any]:
    """per_step: seconds by store and round. ratios: to none, round by round. waited: log calls' share of training."""
    per_step = {name: [each[name]["training"] / each[name]["steps"] for each in rounds] for name in rounds[0]}
    ratios = {
        name: [own / plain for own, plain in zip(runs, per_step["none"], strict=True)]
        for name, runs in per_step.items()
        if name != "none"
    }
    waited = {name: [each[name]["log_seconds"] / each[name]["training"] for each in rounds] for name in ratios}
    parts = {name: {part: [each[name][part] for each in rounds] for part in PARTS} for name in ratios}
    return {"per_step": per_step, "ratios": ratios, "waited": waited, "start_up": parts}


def show(results: dict[str, Any]) -> None:
    """Machine, and the figures beside what the project allows."""
    facts = results["machine"]
    for line in (facts["date"], facts["cpu"], facts["system"], str(results["settings"])):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table("tracking", "ms a step", "of none", "lowest", "highest", "waited for log calls")
    for name, runs in results["per_step"].items():
        ratios = results["ratios"].get(name, [1.0])
        waited = f"{median(results['waited'][name]):.2%}" if name in results["waited"] else "-"
        values = (f"{value:.3f}" for value in (median(ratios), min(ratios), max(ratios)))
        table.add_row(name, f"{1000 * median(runs):.1f}", *values, waited)
    console.print(table)
    console.print(f"aim: at most {1 + MOST_PER_STEP:.2f} of none")
    table = Table("seconds", "imports", "store, new", "store, later", "start-up, most", "end of run")
    for name, parts in results["start_up"].items():
        most = max(imports + store for imports, store in zip(parts["imports"], parts["store"], strict=True))
        later = parts["store"][1:]
        table.add_row(
            name,
            f"{median(parts['imports']):.2f}",
            f"{parts['store'][0]:.2f}",
            f"{median(later):.2f}" if later else "-",
            f"{most:.2f}",
            f"{median(parts['end']):.2f}",
        )
    console.print(table)
    console.print(f"aim: start-up of at most {MOST_START_UP:.0f} s")


if __name__ == "__main__":
    launch(main)
