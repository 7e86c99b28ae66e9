"""The Ray cluster: one that exists already, or one on this machine that ends with the run."""

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

# One session gains little from a fifth core; a second session gains more.
MAX_THREADS = 4
LOCAL = "local"  # as Ray calls a cluster that it starts here


class Shape(NamedTuple):
    """The resources of each worker. gpus: 0 or 1. provider: never `auto`, for all workers must use the same."""

    workers: int
    threads: int
    gpus: int
    provider: Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster to use, and how much of it.

    address: `host:6379`, or `auto` for the one that runs on this machine; None takes RAY_ADDRESS, or else starts one
    here, bound to 127.0.0.1, that ends with the run. If this process has initialised Ray already, that one is used.
    provider: `auto` takes CUDA where the cluster has GPUs and this onnxruntime supports CUDA. threads: of each worker;
    None means 4, or fewer where a node has fewer CPUs; with CUDA, a GPU's share of its node's. workers: None fills the
    cluster. Raises UsageError where Ray is not installed.
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
        """Connect to the cluster, or start one. Raises UsageError where there is none, or none with these resources."""
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
            # A short name, as paths of sockets must fit into 107 bytes. The folder also holds Ray's logs.
            with tempfile.TemporaryDirectory(prefix="clipline-ray-", ignore_cleanup_errors=True) as folder:
                try:
                    _start(address, folder)
                    yield self.shape(ray.nodes())
                finally:
                    ray.shutdown()

    def shape(self, nodes: list[dict]) -> Shape:
        """How many workers of which kind fit. nodes: what `ray.nodes()` returns. Raises UsageError."""
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        cpus = [int(node.get("CPU", 0)) for node in resources]
        gpus = [int(node.get("GPU", 0)) for node in resources]
        if self.provider == "cuda" and not any(gpus):
            raise UsageError("--provider cuda: no node of the Ray cluster has a GPU. Fix: --provider cpu")
        cuda = self.provider == "cuda" or (
            self.provider == "auto" and any(gpus) and CUDA in load_onnxruntime().get_available_providers()
        )
        if cuda:
            share = min(cpu // gpu for cpu, gpu in zip(cpus, gpus, strict=True) if gpu)
            workers, threads = sum(gpus), self.threads or max(1, share)
        else:
            threads = self.threads or min(MAX_THREADS, max(1, min((cpu for cpu in cpus if cpu), default=1)))
            workers = sum(cpu // threads for cpu in cpus)
        if threads > max(cpus, default=0):
            raise UsageError(
                f"no node of the Ray cluster has {threads} CPUs: they have {', '.join(map(str, cpus)) or 'none'}. "
                "Fix: fewer --threads"
            )
        return Shape(self.workers or workers, threads, int(cuda), "cuda" if cuda else "cpu")


def prepare(address: str) -> None:
    """Set what Ray reads from the environment alone. Call it before Ray is imported; variables that are set stay."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    if address == LOCAL:
        # Despite its name it works on Linux too: all of Ray's servers then listen on 127.0.0.1 alone.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Without a token other users of this machine could run code as this user; Ray itself would store one in $HOME.
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        if "ray" not in sys.modules:  # it reads the mode when it is imported
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
    new = {"num_cpus": cores.available(), "include_dashboard": False, "_temp_dir": folder}
    options = new if address == LOCAL else {}
    try:
        if address not in (LOCAL, "auto"):
            _check_listening(address)
        handler = signal.getsignal(signal.SIGTERM)
        with _no_stderr():
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray replaced it by one that exits with another code
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if address == LOCAL:
            raise CliplineError(f"Ray does not start on this machine: {first}") from error
        raise UsageError(
            f"no Ray cluster at {address}: {first}. Fix: check --ray-address and RAY_ADDRESS, see that `ray status` "
            "answers there, and that this machine has the same versions of Ray and Python"
        ) from error


def _check_listening(address: str) -> None:
    """Raise OSError or ValueError where nothing listens: Ray would wait for minutes there, and ignore signals."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("not of the form HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Silence file descriptor 2: Ray's C++ part prints its log level there. Errors are raised all the same."""
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
    """Blocks in order, and no progress bars or notices of Ray Data between those of clipline."""
    from ray.data import DataContext

    context: DataContext = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is raised as well
    try:
        with DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)
