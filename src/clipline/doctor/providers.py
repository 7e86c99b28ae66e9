"""Test which providers run here, and which provider runs each node of a model's graphs.

onnxruntime lists a provider as available where the wheel was built with it. Whether it starts shows when a session is
created, and which nodes it runs shows in the profile of a call.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clipline.errors import CliplineError, first_line
from clipline.runtime.bundle import Bundle, Graph
from clipline.runtime.session import CPU, CUDA, INPUTS, NoCudaError, Sessions, load_onnxruntime, onnxruntime_errors

Wanted = Literal["auto", "cpu", "cuda"]
Side = Literal["image", "text"]
NAMES: dict[Literal["cpu", "cuda"], str] = {"cpu": CPU, "cuda": CUDA}
# A graph y = x + x, float32 [n], as `onnx.helper.make_model` writes it (tests/doctor compares): the base package does
# not install onnx.
DOUBLE = bytes.fromhex(
    "08083a3c0a0e0a01780a017812017922034164641206646f75626c655a100a0178120b0a09080112050a0312016e"
    "62100a0179120b0a09080112050a0312016e42040a001011"
)
# The operators with most of the work; none should run on the CPU where the model runs on CUDA.
HEAVY = {"Conv", "Gemm", "MatMul", "FusedMatMul", "FusedConv", "FusedGemm", "Attention", "MultiHeadAttention"}


@dataclass(frozen=True)
class Provider:
    """A provider of onnxruntime.

    available: this onnxruntime was built with it. runs: a session started on it and computed the right result. why: the
    reason where it does not run.
    """

    name: str
    available: bool
    runs: bool
    why: str = ""


def providers(threads: int) -> list[Provider]:
    """Test CPU and CUDA. Raises UsageError where onnxruntime is missing."""
    available = load_onnxruntime().get_available_providers()
    reasons = {name: _try(name, threads) for name in NAMES}
    return [Provider(name, NAMES[name] in available, not why, why) for name, why in reasons.items()]


def _try(name: Literal["cpu", "cuda"], threads: int) -> str:
    """Run a small graph; returns the reason where that fails, else an empty string."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "double.onnx"
        path.write_bytes(DOUBLE)
        try:
            (doubled,) = Sessions(name, threads).open(path).run(["y"], {"x": np.arange(3, dtype=np.float32)})
        except NoCudaError as error:
            return error.reason
        except CliplineError as error:
            return str(error).partition(". Fix: ")[0]
        except onnxruntime_errors() as error:
            return f"it starts, but a first call fails: {first_line(error)}"
    return "" if doubled.tolist() == [0, 2, 4] else f"it starts, but doubles 0 1 2 to {doubled.tolist()}"


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a graph ran.

    nodes: provider -> number of nodes. share: provider -> share of a call's time. cpu_work: operators of HEAVY nodes
    that ran on the CPU while others ran on CUDA. problem: the reason where the graph does not run, else empty.
    """

    file: str
    precision: str
    bytes: int
    nodes: dict[str, int]
    share: dict[str, float]
    cpu_work: list[str]
    problem: str = ""


class _Profiled(Sessions):
    """Sessions that write a profile of each call."""

    def __init__(self, wanted: Wanted, threads: int, prefix: Path) -> None:
        super().__init__(wanted, threads)
        self._prefix = prefix

    def _options(self):
        options = super()._options()
        options.enable_profiling = True
        options.profile_file_prefix = str(self._prefix)
        return options


def placements(bundle: Bundle, wanted: Wanted, threads: int) -> list[Placement]:
    """Check the file of each of the model's graphs, and run it with two images or texts."""
    sides: dict[Side, dict[str, Graph]] = {"image": bundle.manifest.image, "text": bundle.manifest.text}
    return [_placement(bundle, side, graph, wanted, threads) for side in sides for graph in sides[side].values()]


def _placement(bundle: Bundle, side: Side, graph: Graph, wanted: Wanted, threads: int) -> Placement:
    problem, events = "", []
    try:
        events = _profile(bundle, side, graph, wanted, threads)
    except CliplineError as error:
        problem = str(error)
    nodes = Counter(event["args"]["provider"] for event in events)
    spent = Counter()
    for event in events:
        spent[event["args"]["provider"]] += event["dur"]
    on_cpu = {event["args"]["op_name"] for event in events if event["args"]["provider"] == CPU} & HEAVY
    return Placement(
        file=graph.file,
        precision=graph.precision,
        bytes=graph.bytes,
        nodes=dict(nodes.most_common()),
        share={name: round(time / max(1, spent.total()), 3) for name, time in spent.most_common()},
        cpu_work=sorted(on_cpu) if CUDA in nodes else [],
        problem=problem,
    )


def _profile(bundle: Bundle, side: Side, graph: Graph, wanted: Wanted, threads: int) -> list[dict]:
    """Events of the nodes that ran in the second of two calls; the first also allocates. Raises CliplineError."""
    size = bundle.preprocess.size
    inputs = {name: np.ones((2, 4), np.int64) for name in INPUTS["text"]}
    if side == "image":
        inputs = {"pixels": np.zeros((2, size, size, 3), np.uint8)}
    with tempfile.TemporaryDirectory() as folder:
        session = _Profiled(wanted, threads, Path(folder) / "profile").open_graph(bundle, side, graph)
        try:
            for _ in range(2):
                session.run(["embedding"], inputs)
        except onnxruntime_errors() as error:
            raise CliplineError(
                f"{bundle.folder / graph.file}: onnxruntime fails on it: {first_line(error)}"
            ) from error
        finally:
            profile = Path(session.end_profiling())
        events = json.loads(profile.read_text(encoding="utf-8"))
    ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return ran[len(ran) // 2 :]
