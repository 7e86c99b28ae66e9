"""Which providers really run here, and on which of them each node of a model's graphs stands.

That a provider is available says only that the wheel was built with it: whether it starts shows when a session is
made, and where the nodes went shows the profile of one call.
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
from clipline.runtime.session import CPU, CUDA, NoCudaError, Sessions, load_onnxruntime, onnxruntime_errors

Wanted = Literal["auto", "cpu", "cuda"]
NAMES: dict[Literal["cpu", "cuda"], str] = {"cpu": CPU, "cuda": CUDA}
# y = x + x, float32 [n], as `onnx.helper.make_model` writes it (tests/doctor writes it again): the base package has no
# onnx to make it with.
DOUBLE = bytes.fromhex(
    "08083a3c0a0e0a01780a017812017922034164641206646f75626c655a100a0178120b0a09080112050a0312016e"
    "62100a0179120b0a09080112050a0312016e42040a001011"
)
# The work of a model; of these, none should stand on the CPU if the model was to run on CUDA.
HEAVY = {"Conv", "Gemm", "MatMul", "FusedMatMul", "FusedConv", "FusedGemm", "Attention", "MultiHeadAttention"}


@dataclass(frozen=True)
class Provider:
    """available: this onnxruntime was built with it. runs: a session started on it and gave the right result."""

    name: str
    available: bool
    runs: bool
    why: str = ""


def providers(threads: int) -> list[Provider]:
    """The two that clipline uses, each tried. Raises UsageError where onnxruntime is missing."""
    available = load_onnxruntime().get_available_providers()
    found = []
    for name, identifier in NAMES.items():
        why = _try(name, threads)
        found.append(Provider(name, identifier in available, not why, why))
    return found


def _try(name: Literal["cpu", "cuda"], threads: int) -> str:
    """Run a small graph; why that fails, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "double.onnx"
        path.write_bytes(DOUBLE)
        try:
            (found,) = Sessions(name, threads).open(path).run(["y"], {"x": np.arange(3, dtype=np.float32)})
        except NoCudaError as error:
            return error.reason
        except CliplineError as error:
            return str(error).partition(". Fix: ")[0]
        except onnxruntime_errors() as error:
            return f"it starts, but a first call fails: {first_line(error)}"
    return "" if found.tolist() == [0, 2, 4] else f"it starts, but doubles 0 1 2 to {found.tolist()}"


@dataclass(frozen=True)
class Placement:
    """One graph. nodes: provider -> how many nodes ran on it; share: of the time of one call; cpu_work: kinds of heavy
    nodes that stayed on the CPU while others ran on CUDA. problem: why it does not run, else empty."""

    file: str
    precision: str
    bytes: int
    nodes: dict[str, int]
    share: dict[str, float]
    cpu_work: list[str]
    problem: str = ""


class _Profiled(Sessions):
    """Sessions that write down which node ran where."""

    def __init__(self, wanted: Wanted, threads: int, prefix: Path) -> None:
        super().__init__(wanted, threads)
        self._prefix = prefix

    def _options(self):
        options = super()._options()
        options.enable_profiling = True
        options.profile_file_prefix = str(self._prefix)
        return options


def placements(bundle: Bundle, wanted: Wanted, threads: int) -> list[Placement]:
    """Each graph of the model, its file checked against the manifest and run once with two images or texts."""
    manifest = bundle.manifest
    graphs = [("image", graph) for graph in manifest.image.values()] + [
        ("text", graph) for graph in manifest.text.values()
    ]
    return [_placement(bundle, side, graph, wanted, threads) for side, graph in graphs]


def _placement(bundle: Bundle, side: str, graph: Graph, wanted: Wanted, threads: int) -> Placement:
    problem, events = "", []
    if side == "image":
        size = bundle.preprocess.size
        inputs = {"pixels": np.zeros((2, size, size, 3), np.uint8)}
    else:
        inputs = {name: np.ones((2, 4), np.int64) for name in ("input_ids", "attention_mask")}
    try:
        events = _profile(bundle, side, graph, inputs, wanted, threads)
    except CliplineError as error:
        problem = str(error)
    nodes = Counter(event["args"]["provider"] for event in events)
    spent = Counter()
    for event in events:
        spent[event["args"]["provider"]] += event["dur"]
    left = {event["args"]["op_name"] for event in events if event["args"]["provider"] == CPU} & HEAVY
    return Placement(
        file=graph.file,
        precision=graph.precision,
        bytes=graph.bytes,
        nodes=dict(nodes.most_common()),
        share={name: round(time / max(1, spent.total()), 3) for name, time in spent.most_common()},
        cpu_work=sorted(left) if CUDA in nodes else [],
        problem=problem,
    )


def _profile(
    bundle: Bundle,
    side: Literal["image", "text"],
    graph: Graph,
    inputs: dict[str, np.ndarray],
    wanted: Wanted,
    threads: int,
) -> list[dict]:
    """One event per node that ran, of the second of two calls: the first one also allocates. Raises CliplineError."""
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
