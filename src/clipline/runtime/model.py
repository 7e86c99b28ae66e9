"""Run an exported model with onnxruntime only: uint8 images or texts in, L2-normalised embeddings out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np

from clipline.errors import CliplineError, UsageError, first_line
from clipline.image import Preprocess
from clipline.runtime.bundle import COPY, Bundle, Graph, PrecisionChoice
from clipline.runtime.cuda import CudaBufferPool
from clipline.runtime.precision import fastest
from clipline.runtime.session import CUDA, Sessions, load_onnxruntime, onnxruntime_errors
from clipline.utils import cores
from clipline.utils.texts import as_texts

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

T = TypeVar("T", np.ndarray, dict[str, np.ndarray])
# Images in a batch that suit most models: larger batches are not faster (docs/log/speed.md; not measured on CUDA yet).
USUAL_BATCH = {"cpu": 16, "cuda": 256}
# The most calls that share the CPU: each has the activations of a batch in memory.
MAX_CALLS = 4
SHOWN = 60  # characters of a text in a note about it


class _Opened(NamedTuple):
    """A loaded image graph.

    call: uint8 [b, S, S, 3] -> float32 [b, dim]. precision_words: its precision, and why that was chosen.
    """

    graph: Graph
    call: Callable[[np.ndarray], np.ndarray]
    on_cuda: bool
    precision_words: str


class OnnxModel:
    """An exported model (models/onnx). Each graph is loaded when it is first used.

    provider: `auto` takes CUDA where it starts, else the CPU (see `running_on`); `cuda` fails where it does not start.
    precision: of the image graph; `auto` times those that were exported and takes the fastest (see `precision_words`).
    Texts are few, and always use the fp32 graph.
    threads: on the CPU; None means every core that this process may use.
    bulk: for many batches, from several threads (`calls_at_once`). On the CPU these calls share `threads`: in a single
    call threads wait for each other at every node, and leave cores idle that another call can use. CUDA always takes
    two calls.
    Raises UsageError where `folder` is no model or lacks the precision, and where provider or onnxruntime are missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        provider: Literal["auto", "cpu", "cuda"] = "auto",
        precision: PrecisionChoice = "fp32",
        threads: int | None = None,
        bulk: bool = False,
    ) -> None:
        self.bundle = Bundle(folder)
        self.preprocess: Preprocess = self.bundle.preprocess.make()
        self._requested = None if precision == "auto" else _graph(self.bundle, "image", precision)
        self._text = _graph(self.bundle, "text", "fp32")
        threads = threads or cores.available()
        self._cpu_calls = min(threads, MAX_CALLS) if bulk else 1
        self._sessions = Sessions(provider, threads, self._cpu_calls)

    @property
    def model_id(self) -> str:
        """Embeddings can be compared where their models have the same id."""
        return self.bundle.manifest.model_id

    @property
    def variant(self) -> str:
        """Precision and hash of the image graph, such as `fp32-1f0c9a63b2d4`; `auto` is resolved to one."""
        return self._image.variant

    @property
    def precision_words(self) -> str:
        """The image graph's precision, and with `auto` why: `int8, the fastest here: int8 402, fp32 188 images/s`."""
        return self._opened.precision_words

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.bundle.manifest.dim

    @property
    def on_cuda(self) -> bool:
        """Whether the image graph runs on CUDA. Loads the graph to find out."""
        return self._opened.on_cuda

    @property
    def calls_at_once(self) -> int:
        """How many threads should call `embed_pixels`. On CUDA two: one copies pixels while the other computes."""
        return 2 if self.on_cuda else self._cpu_calls

    @property
    def usual_batch(self) -> int:
        """A batch size that suits most models. It is fixed, since the last bits of a vector depend on it."""
        return USUAL_BATCH["cuda" if self.on_cuda else "cpu"]

    @property
    def running_on(self) -> str:
        """The provider in words, e.g. `CPU, 2 threads`. Loads the image graph to find out."""
        _ = self._opened
        return self._sessions.running_on

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [b, S, S, 3] from `preprocess` -> float32 [b, dim]. Raises CliplineError where the graph fails."""
        size = self.preprocess.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8 [b, {size}, {size}, 3], got {pixels.dtype} {list(pixels.shape)}")
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        return self._run(self._image, self._opened.call, pixels)

    def embed_texts(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """n texts -> float32 [n, dim], `batch_size` per call.

        Raises UsageError for what is no text (`as_texts`), and CliplineError where the graph fails.
        """
        texts = as_texts(texts, allow_empty=True)
        parts = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(texts), batch_size):
            encoded = self.tokenizer.encode_batch(texts[start : start + batch_size])
            inputs = {
                "input_ids": np.array([item.ids for item in encoded], np.int64),
                "attention_mask": np.array([item.attention_mask for item in encoded], np.int64),
            }
            parts.append(self._run(self._text, self._call_text, inputs))
        return np.concatenate(parts)

    def cut_notes(self, texts: list[str]) -> list[str]:
        """A line for each of `texts` that is longer than the model reads, with the text's beginning."""
        encoded = self.tokenizer.encode_batch(texts)
        long = (text for text, item in zip(texts, encoded, strict=True) if item.overflowing)
        shown = (text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…" for text in long)
        return [f"`{text}` is longer than the model reads: its end is ignored" for text in shown]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, which pads and truncates."""
        from tokenizers import Tokenizer

        text = self.bundle.read_tokenizer()
        try:
            return Tokenizer.from_str(text)
        # tokenizers raises a bare Exception for a damaged file.
        except Exception as error:  # noqa: BLE001
            raise UsageError(f"{self.bundle.tokenizer}: cannot be used ({error}). {COPY}") from None

    @property
    def _image(self) -> Graph:
        return self._requested or self._opened.graph

    @cached_property
    def _opened(self) -> _Opened:
        """The requested image graph, or the fastest; to choose it, all of them are loaded."""
        graphs = self.bundle.manifest.image
        if self._requested or len(graphs) == 1:
            graph = self._requested or next(iter(graphs.values()))
            return self._open(graph, graph.precision + ("" if self._requested else ", the only one shipped"))
        opened = {name: self._open(graph) for name, graph in graphs.items()}
        size, on_cuda = self.preprocess.size, next(iter(opened.values())).on_cuda
        batch = USUAL_BATCH["cuda" if on_cuda else "cpu"]
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        calls = {name: partial(self._run, graphs[name], image.call, pixels) for name, image in opened.items()}
        name, words = fastest(calls, batch)
        return opened[name]._replace(precision_words=words)

    def _open(self, graph: Graph, words: str = "") -> _Opened:
        session = self._sessions.open_graph(self.bundle, "image", graph)
        if session.get_providers()[0] == CUDA:
            return _Opened(graph, CudaBufferPool(load_onnxruntime(), session, self.dim).run, True, words)
        return _Opened(graph, lambda pixels: session.run(["embedding"], {"pixels": pixels})[0], False, words)

    @cached_property
    def _text_session(self) -> InferenceSession:
        return self._sessions.open_graph(self.bundle, "text", self._text)

    def _call_text(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._text_session.run(["embedding"], inputs)[0]

    def _run(self, graph: Graph, call: Callable[[T], np.ndarray], inputs: T) -> np.ndarray:
        """Return `call(inputs)`. Raises CliplineError with the graph's file name where onnxruntime fails."""
        try:
            return call(inputs)
        except onnxruntime_errors() as error:
            named = inputs if isinstance(inputs, dict) else {"pixels": inputs}
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())
            raise CliplineError(
                f"{self.bundle.folder / graph.file}: onnxruntime failed on {shapes}: {first_line(error)}. "
                "Fix: if memory ran out, use smaller batches; else export the model again"
            ) from error


def usable(vector: np.ndarray) -> bool:
    """Whether an embedding [dim] has a direction; a search cannot use NaN or zeros."""
    return bool(np.isfinite(vector).all() and vector.any())


def _graph(bundle: Bundle, side: Literal["image", "text"], precision: str) -> Graph:
    graphs: dict[str, Graph] = getattr(bundle.manifest, side)
    if precision not in graphs:
        raise UsageError(f"{bundle.folder}: no {precision} {side} graph; it has {', '.join(graphs) or 'none'}")
    return graphs[precision]
