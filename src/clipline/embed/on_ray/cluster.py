"""Where Ray runs: a cluster that is there, or one on this machine that lives as long as the run."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, NamedTuple

from clipline.errors import CliplineError, UsageError, missing_extra
from clipline.runtime.session import CUDA, load_onnxruntime
from clipline.utils import cores

if TYPE_CHECKING:
    from ray.data import DataContext

# Above that one session gains little from another core, and two sessions gain more.
THREADS = 4
LOCAL = "local"  # as Ray calls a cluster that it starts here


class Shape(NamedTuple):
    """What every worker gets. gpus: 0 or 1. provider: of its model, never `auto`: all workers must agree."""

    workers: int
    threads: int
    gpus: int
    provider: Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster, and how much of it.

    address: `host:6379`, or `auto` for the one that runs on this machine; None takes RAY_ADDRESS, else starts one
    here, bound to 127.0.0.1, that ends with the run. A Ray that this process has begun already is used as it is.
    provider: `auto` takes CUDA where the cluster has GPUs and this onnxruntime knows CUDA. threads: of each worker;
    None means 4, or as many as a node has; with CUDA, a GPU's share of its node. workers: None fills the cluster.
    Raises UsageError when made, where Ray is not installed.
    """

    address: str | None = None
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise missing_extra("ray", "ray")

    @contextmanager
    def connected(self) -> Iterator[Shape]:
        """Be part of the cluster. Raises UsageError where there is none, or none that can do it."""
        address = self.address or os.environ.get("RAY_ADDRESS") or LOCAL
        prepare(address)
        try:
            import ray.data
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "ray", "ray") from error
        with _quiet():
            if ray.is_initialized():
                yield self.shape(ray.nodes())
                return
            # A short name: sockets' paths must fit into 107 bytes. Removed at the end, with Ray's logs.
            with tempfile.TemporaryDirectory(prefix="clipline-ray-", ignore_cleanup_errors=True) as folder:
                try:
                    _start(address, folder)
                    yield self.shape(ray.nodes())
                finally:
                    ray.shutdown()

    def shape(self, nodes: list[dict]) -> Shape:
        """How many workers of which kind fit. nodes: as `ray.nodes()` gives them. Raises UsageError."""
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        cpus = [int(each.get("CPU", 0)) for each in resources]
        gpus = [int(each.get("GPU", 0)) for each in resources]
        if self.provider == "cuda" and not any(gpus):
            raise UsageError("CUDA was asked for, but no node of the Ray cluster has a GPU. Fix: --provider cpu")
        cuda = self.provider == "cuda" or (
            self.provider == "auto" and any(gpus) and CUDA in load_onnxruntime().get_available_providers()
        )
        if cuda:
            share = min(cpu // gpu for cpu, gpu in zip(cpus, gpus, strict=True) if gpu)
            workers, threads = sum(gpus), self.threads or max(1, share)
        else:
            threads = self.threads or min(THREADS, max(1, min((cpu for cpu in cpus if cpu), default=1)))
            workers = sum(cpu // threads for cpu in cpus)
        if threads > max(cpus, default=0):
            raise UsageError(
                f"no node of the Ray cluster has {threads} CPUs: they have {', '.join(map(str, cpus)) or 'none'}. "
                "Fix: fewer --threads"
            )
        return Shape(self.workers or workers, threads, int(cuda), "cuda" if cuda else "cpu")


def prepare(address: str) -> None:
    """Set what Ray takes from the environment alone, before it is imported; what is set already stays."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # all that it would print to our standard output
    }
    if address == LOCAL:
        # Despite its name it also keeps Linux off the network: all that listens does so on 127.0.0.1.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Other users of this machine could else run their code as us. Without a token Ray writes one to the home.
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        if "ray" not in sys.modules:  # else it has made up its mind
            settings["RAY_AUTH_MODE"] = "token"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _start(address: str, folder: str) -> None:
    import ray

    if address.startswith("ray://"):
        raise UsageError(
            f"{address}: Ray Data does not work through Ray Client. Fix: run on a node of the cluster with "
            "--ray-address auto, or submit it as a job"
        )
    here = {"num_cpus": cores.available(), "include_dashboard": False, "_temp_dir": folder} if address == LOCAL else {}
    try:
        if address not in (LOCAL, "auto"):
            _knock(address)
        with _signals_kept(), _no_stderr():
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **here)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if address == LOCAL:
            raise CliplineError(f"Ray does not start on this machine: {first}") from error
        raise UsageError(
            f"no Ray cluster at {address}: {first}. Fix: check --ray-address and RAY_ADDRESS, see that `ray status` "
            "answers there, and that this machine has the same versions of Ray and Python"
        ) from error


def _knock(address: str) -> None:
    """Raise OSError or ValueError where nobody listens: there Ray would wait for minutes, deaf to signals."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("not of the form HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray's start puts its own handler for SIGTERM in the place of ours, and that one exits with another code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, ours)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's C++ part says there which log level it was told, past Python. What goes wrong is raised."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and notices of Ray Data beside ours; rows in the order in which they came."""
    from ray.data import DataContext

    context: DataContext = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what goes wrong is raised as well
    try:
        with DataContext.current(context):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
