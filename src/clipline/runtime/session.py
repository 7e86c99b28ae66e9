"""Open onnxruntime sessions on the CPU or on CUDA, and never on another provider than the one asked for.

Where CUDA does not start, onnxruntime prints pages of library errors and falls back to the CPU. Here `auto` first tests
whether there is a device and reports which provider it chose; `cuda` is an error where CUDA does not start.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import os
from functools import partial
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
# Full float32: with TF32's 10 bits of mantissa the parity that the export stage promises does not hold.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
QUIET, WARNINGS = 4, 2
# The producer that onnxruntime's quantisation names in a graph, and the key by which export.int8 says that weights are
# of 7 bits. Bundles of earlier releases have weights of 8 bits and no such key.
QUANTISER, WEIGHT_BITS = "onnx.quantize", "clipline.weight_bits"
# Inputs and output of the graphs: name -> (element type, number of dimensions).
INPUTS = {
    "image": {"pixels": ("tensor(uint8)", 4)},
    "text": {"input_ids": ("tensor(int64)", 2), "attention_mask": ("tensor(int64)", 2)},
}
OUTPUTS = {"embedding": ("tensor(float)", 2)}
# The first version of onnxruntime that reads tensors only from files inside the model's folder.
CONFINES_FILES = (1, 27)
CUDA_FIX = (
    "Fix: see that nvidia-smi lists a GPU and that `pip list` shows onnxruntime-gpu without onnxruntime; "
    "pip install 'clipline[gpu]' brings the CUDA libraries"
)


class NoCudaError(UsageError):
    """CUDA was asked for and is not available. reason: without the advice how to fix it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"CUDA was asked for, but {reason}. {CUDA_FIX}. Or use the CPU: --provider cpu")
        self.reason = reason


class Sessions:
    """Opens ONNX files with one provider.

    provider: `auto` takes CUDA where it starts, else the CPU. threads: CPU threads, which `calls` concurrent calls
    share. running_on: the provider in words, known once a session is open.
    """

    def __init__(self, provider: Literal["auto", "cpu", "cuda"], threads: int, calls: int = 1) -> None:
        """Raises UsageError where onnxruntime is missing, and NoCudaError where CUDA is asked for and not available."""
        self._ort = load_onnxruntime()
        self._threads, self._calls = threads, calls
        self._provider = provider
        self._no_cuda = None if provider == "cpu" else self._why_no_cuda()
        if provider == "cuda" and self._no_cuda:
            raise NoCudaError(self._no_cuda)
        self.running_on = ""

    def open_graph(self, bundle: Bundle, side: Literal["image", "text"], graph: Graph) -> InferenceSession:
        """Open a graph of the model. Raises as `open`, and UsageError where inputs or output are not that side's."""
        path = bundle.graph_path(graph)
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
        """Open the ONNX file `path`.

        Raises UsageError where onnxruntime refuses the file, NoCudaError where CUDA was asked for and does not start,
        and CliplineError where memory runs out.
        """
        _refuse_other_files(self._ort, path)
        try:
            if self._provider != "cpu" and not self._no_cuda:
                session = self._open_on_cuda(path)
            else:
                session = self._open_on_cpu(path)
        except onnxruntime_errors() as error:
            kind = CliplineError if out_of_memory(error) else UsageError
            raise kind(
                f"{path}: onnxruntime cannot load it: {first_line(error)}. Fix: export the model again"
            ) from error
        on_cuda = session.get_providers()[0] == CUDA
        self.running_on = "CUDA" if on_cuda else f"CPU, {self._threads} thread{'s' * (self._threads > 1)}"
        if self._provider == "auto" and self._no_cuda and CUDA in self._ort.get_available_providers():
            self.running_on += f" ({self._no_cuda})"
        return session

    def _open_on_cpu(self, path: Path) -> InferenceSession:
        # With the fallback enabled onnxruntime prints its error and tries the same provider again.
        open_session = partial(self._ort.InferenceSession, path, providers=[CPU], enable_fallback=0)
        session = open_session(self._options())
        metadata = session.get_modelmeta()
        eight_bits = metadata.producer_name == QUANTISER and WEIGHT_BITS not in metadata.custom_metadata_map
        if eight_bits and not cores.multiplies_bytes():
            # Sums of 8-bit products overflow without VNNI: other embeddings than those that passed the export's gate.
            session = open_session(self._options(exact_bytes=True))
        return session

    def _open_on_cuda(self, path: Path) -> InferenceSession:
        printed = io.StringIO()
        self._ort.set_default_logger_severity(QUIET)
        try:
            with contextlib.redirect_stdout(printed):
                # The libraries of the CUDA wheels are on no search path: onnxruntime must load them itself.
                self._ort.preload_dlls()
                providers = [(CUDA, CUDA_OPTIONS), CPU]
                session = self._ort.InferenceSession(path, self._options(), providers=providers)
        finally:
            self._ort.set_default_logger_severity(WARNINGS)
        if session.get_providers()[0] != CUDA:
            reason = printed.getvalue().strip().partition("\n")[0]
            self._no_cuda = "its CUDA libraries do not load" + (f": {reason}" if reason else "")
            if self._provider == "cuda":
                raise NoCudaError(self._no_cuda)
        return session

    def _options(self, *, exact_bytes: bool = False):
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = max(1, self._threads // self._calls)
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET  # errors are raised as well
        # Whatever the file's name: .ort would select onnxruntime's own format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Threads that wait for the next batch would otherwise spin on the cores that decode it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact_bytes:
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _why_no_cuda(self) -> str | None:
        """The reason why CUDA cannot be used, as far as it shows without a model; None where it may start."""
        if CUDA not in self._ort.get_available_providers():
            return "this onnxruntime has no CUDA provider"
        return no_device()


def load_onnxruntime() -> ModuleType:
    """Import onnxruntime. Raises UsageError that names the extras where it is missing or broken."""
    # Telemetry starts with the import, and leaves files in the temporary folder and in the home.
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
        # Uninstalling one of the two wheels removes the files that they share.
        raise UsageError(
            "onnxruntime is installed in part. Fix: pip uninstall onnxruntime onnxruntime-gpu, "
            "then pip install 'clipline[cpu]' or 'clipline[gpu]'"
        )
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime raises for a bad graph or a failed run; they share no base class.

    A plain RuntimeError where a device has no memory for buffers; a UnicodeDecodeError where a message quotes bytes of
    a damaged file.
    """
    classes = vars(load_onnxruntime().capi.onnxruntime_pybind11_state).values()
    own = (kind for kind in classes if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, UnicodeDecodeError)


def _refuse_other_files(ort: ModuleType, path: Path) -> None:
    """Raise UsageError where a graph has tensors in other files and this onnxruntime would read any file.

    Versions before 1.27 follow `..`, absolute paths or links, and some take an address in memory for a path. Each such
    tensor has the key `location`, whose bytes appear in the file as they are.
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
    """The reason why there is no NVIDIA device, asked of the driver itself; None where there is one."""
    try:
        driver = load_driver()
    except OSError:
        return "no NVIDIA driver on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no NVIDIA GPU that this process can see"
    return None
