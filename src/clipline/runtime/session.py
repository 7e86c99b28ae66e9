"""Open onnxruntime sessions on the CPU or on CUDA, and never on another provider than the one asked for.

Where CUDA does not start, onnxruntime prints pages of library errors and takes the CPU. Here `auto` first
looks whether there is a device at all and says what it took; `cuda` is an error where CUDA does not start.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from clipline.errors import CliplineError, UsageError, first_line, out_of_memory
from clipline.runtime.bundle import COPY, Bundle, Graph
from clipline.runtime.cuda import load_driver
from clipline.utils import cores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Full float32: the parity that the export stage promises does not hold with TF32's 10 bits.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
QUIET, WARNINGS = 4, 2
# What a graph takes and gives: name -> (element type, number of dimensions).
INPUTS = {
    "image": {"pixels": ("tensor(uint8)", 4)},
    "text": {"input_ids": ("tensor(int64)", 2), "attention_mask": ("tensor(int64)", 2)},
}
OUTPUTS = {"embedding": ("tensor(float)", 2)}
# The first onnxruntime that reads tensors from files inside the model's folder alone, whichever way they are named.
CONFINES_FILES = (1, 27)
CUDA_FIX = (
    "Fix: see that nvidia-smi lists a GPU and that `pip list` shows onnxruntime-gpu without onnxruntime; "
    "pip install 'clipline[gpu]' brings the CUDA libraries"
)


class NoCudaError(UsageError):
    """CUDA was asked for and cannot be had. why: in words, without how to fix it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"CUDA was asked for, but {why}. {CUDA_FIX}. Or use the CPU: --provider cpu")
        self.why = why


class Sessions:
    """Opens ONNX files with one provider. words: what it runs on, known once a session is open.

    threads: of the CPU, which so many calls share.
    """

    def __init__(self, wanted: Literal["auto", "cpu", "cuda"], threads: int, calls: int = 1) -> None:
        """Raises UsageError where onnxruntime is missing, or CUDA is asked for and cannot be had."""
        self._ort = load_onnxruntime()
        self._threads, self._calls = threads, calls
        self._wanted = wanted
        self._why_not = None if wanted == "cpu" else self._no_cuda()
        if wanted == "cuda" and self._why_not:
            raise NoCudaError(self._why_not)
        self.words = ""

    def open_graph(self, bundle: Bundle, side: Literal["image", "text"], graph: Graph) -> InferenceSession:
        """Open a graph of the model. Raises as `open`, and UsageError where inputs or output are not that side's."""
        path = bundle.graph(graph)
        session = self.open(path)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        signature = [{value.name: (value.type, len(value.shape)) for value in values} for values in (inputs, outputs)]
        if signature != [INPUTS[side], OUTPUTS]:
            given = ", ".join(f"{value.name[:60]} {value.type} {value.shape}" for value in [*inputs, *outputs][:5])
            raise UsageError(f"{path}: no {side} graph of a model: its inputs and outputs are {given}. {COPY}")
        if outputs[0].shape[1:] != [bundle.manifest.dim]:
            raise UsageError(
                f"{path}: gives {outputs[0].shape}, where manifest.json says {bundle.manifest.dim} numbers each. {COPY}"
            )
        return session

    def open(self, path: Path) -> InferenceSession:
        """Open the ONNX file `path`. Raises UsageError where onnxruntime refuses it or CUDA does not start, and
        CliplineError where memory runs out."""
        _refuse_other_files(self._ort, path)
        try:
            if self._wanted != "cpu" and not self._why_not:
                session = self._open_on_cuda(path)
            else:
                # The fallback would print the error and try the same again.
                session = self._ort.InferenceSession(path, self._options(), providers=[CPU], enable_fallback=0)
        except errors(self._ort) as error:
            kind = CliplineError if out_of_memory(error) else UsageError
            raise kind(
                f"{path}: onnxruntime cannot load it: {first_line(error)}. Fix: export the model again"
            ) from error
        on_cuda = session.get_providers()[0] == CUDA
        self.words = "CUDA" if on_cuda else f"CPU, {self._threads} thread{'s' * (self._threads > 1)}"
        if self._wanted == "auto" and self._why_not and CUDA in self._ort.get_available_providers():
            self.words += f" ({self._why_not})"
        return session

    def _open_on_cuda(self, path: Path) -> InferenceSession:
        said = io.StringIO()
        self._ort.set_default_logger_severity(QUIET)
        try:
            with contextlib.redirect_stdout(said):
                # The libraries of the CUDA wheels are on no search path: onnxruntime must load them itself.
                self._ort.preload_dlls()
                providers = [(CUDA, CUDA_OPTIONS), CPU]
                session = self._ort.InferenceSession(path, self._options(), providers=providers)
        finally:
            self._ort.set_default_logger_severity(WARNINGS)
        if session.get_providers()[0] != CUDA:
            reason = said.getvalue().strip().partition("\n")[0]
            self._why_not = "its CUDA libraries do not load" + (f": {reason}" if reason else "")
            if self._wanted == "cuda":
                raise NoCudaError(self._why_not)
        return session

    def _options(self):
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = max(1, self._threads // self._calls)
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET  # what goes wrong is raised as well
        # Whatever the file's name: .ort would select onnxruntime's own format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Threads that wait for the next batch would otherwise spin on the cores that decode it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not cores.multiplies_bytes():
            # Without VNNI products of bytes saturate: another embedding than on the machine that passed the gate.
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _no_cuda(self) -> str | None:
        """Why CUDA cannot be used, as far as can be told without a model; None where it may start."""
        if CUDA not in self._ort.get_available_providers():
            return "this onnxruntime has no CUDA provider"
        return no_device()


def load_onnxruntime() -> ModuleType:
    """The onnxruntime module. Raises UsageError that names the extras where it is missing or broken."""
    # Its import already starts what reports on its use, and leaves files in the temporary folder and in the home.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise UsageError(
            "onnxruntime is not installed. Fix: pip install 'clipline[cpu]', or 'clipline[gpu]' for NVIDIA"
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):
        # Removing one of the two wheels takes the files that they share.
        raise UsageError(
            "onnxruntime is installed in part. Fix: pip uninstall onnxruntime onnxruntime-gpu, "
            "then pip install 'clipline[cpu]' or 'clipline[gpu]'"
        )
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a bad graph or a failed run; they share no base class."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    # Buffers on a device raise a plain RuntimeError when its memory is out; a message that quotes bytes of a damaged
    # file may be no UTF-8.
    return (
        *(getattr(state, name) for name in (*names, "RuntimeException", "EPFail")),
        RuntimeError,
        UnicodeDecodeError,
    )


def _refuse_other_files(ort: ModuleType, path: Path) -> None:
    """Raise UsageError where a graph keeps tensors in other files and this onnxruntime would read any file named there.

    Versions before 1.27 follow `..`, absolute paths or links, and some take an address in memory for a path. Each such
    tensor has the key `location`, whose bytes stand in the file as they are.
    """
    if tuple(map(int, ort.__version__.split(".")[:2])) >= CONFINES_FILES or not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"location") >= 0:
            raise UsageError(
                f"{path}: a tensor may lie in another file, which onnxruntime {ort.__version__} does not confine to "
                "the model's folder. Fix: pip install 'onnxruntime>=1.27'"
            )


def no_device() -> str | None:
    """Why there is no NVIDIA device to use, asked of the driver itself; None where there is one."""
    try:
        driver = load_driver()
    except OSError:
        return "no NVIDIA driver on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no NVIDIA GPU that this process can see"
    return None
