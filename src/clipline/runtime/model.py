"""Run an exported model with onnxruntime alone: uint8 images and texts in, L2-normalised embeddings out."""

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
from clipline.runtime.session import CUDA, Sessions, errors, load_onnxruntime
from clipline.utils import cores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

T = TypeVar("T", np.ndarray, dict[str, np.ndarray])
# Images in a batch that suit most models: larger ones gain nothing (docs/log/speed.md; CUDA's is not measured yet).
USUAL_BATCH = {"cpu": 16, "cuda": 256}
# Of the calls that share the CPU: each has a batch's activations in memory.
CALLS = 4
SHOWN = 60  # characters of a text, in a note about it


class _Opened(NamedTuple):
    """An image graph, loaded. call: uint8 [b, S, S, 3] -> float32 [b, dim]. words: its precision, and why it."""

    graph: Graph
    call: Callable[[np.ndarray], np.ndarray]
    on_cuda: bool
    words: str


class OnnxModel:
    """An exported model (models/onnx), opened; each graph is loaded when first used.

    provider: `auto` takes CUDA where it really starts, else the CPU (`running_on` says which); `cuda` fails
    where it does not start. precision: of the image graph; `auto` times those that were shipped and takes the
    fastest (`precision_words` says which and why). Texts, being few, always take the fp32 graph.
    threads: on the CPU; None means every core that this process may use. bulk: for many batches, given by several
    threads (`calls_at_once`): on the CPU these share `threads`, since a call whose threads wait for each other at
    every node leaves cores idle that another call can use; CUDA always is ready for two. Raises UsageError where
    `folder` is no model or lacks the precision, or where the provider or onnxruntime is missing.
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
        self._asked = None if precision == "auto" else _graph(self.bundle, "image", precision)
        self._text = _graph(self.bundle, "text", "fp32")
        threads = threads or cores.available()
        self._on_cpu = min(threads, CALLS) if bulk else 1
        self._sessions = Sessions(provider, threads, self._on_cpu)

    @property
    def model_id(self) -> str:
        """What decides whether embeddings may be compared."""
        return self.bundle.manifest.model_id

    @property
    def variant(self) -> str:
        """Precision and hash of the image graph. Precision `auto` is decided here at the latest."""
        return self._image.variant

    @property
    def precision_words(self) -> str:
        """The image graph's precision, and with `auto` why: `int8, the fastest here: int8 402, fp32 188 images/s`."""
        return self._opened.words

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.bundle.manifest.dim

    @property
    def on_cuda(self) -> bool:
        """Whether the image graph runs on CUDA. Loads it: only that tells."""
        return self._opened.on_cuda

    @property
    def calls_at_once(self) -> int:
        """How many threads should call `embed_pixels`: with CUDA two, one's pixels travel while the other's compute."""
        return 2 if self.on_cuda else self._on_cpu

    @property
    def usual_batch(self) -> int:
        """A batch size that suits most models here; the same at each run, since a vector's last bits depend on it."""
        return _usual(self.on_cuda)

    @property
    def running_on(self) -> str:
        """The provider in words, e.g. `CPU, 2 threads`. Loads the image graph: only that tells."""
        _ = self._opened
        return self._sessions.words

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [b, S, S, 3] from `preprocess` -> float32 [b, dim]. Raises CliplineError if it fails."""
        size = self.preprocess.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8 [b, {size}, {size}, 3], got {pixels.dtype} {list(pixels.shape)}")
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        return self._guarded(self._image, self._opened.call, pixels)

    def embed_texts(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """n texts -> float32 [n, dim]; `batch_size` per call. Raises CliplineError if the graph fails."""
        parts = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(texts), batch_size):
            encoded = self.tokenizer.encode_batch(texts[start : start + batch_size])
            inputs = {
                "input_ids": np.array([item.ids for item in encoded], np.int64),
                "attention_mask": np.array([item.attention_mask for item in encoded], np.int64),
            }
            parts.append(self._guarded(self._text, self._run_text, inputs))
        return np.concatenate(parts)

    def cut(self, texts: list[str]) -> list[str]:
        """Those of `texts` that are longer than the model reads; the rest of them is ignored."""
        return [text for text, item in zip(texts, self.tokenizer.encode_batch(texts), strict=True) if item.overflowing]

    def cut_notes(self, texts: list[str]) -> list[str]:
        """A line for each text that is `cut`, which names its beginning."""
        begun = (text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…" for text in self.cut(texts))
        return [f"`{text}` is longer than the model reads: its end is ignored" for text in begun]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, which pads and truncates by itself."""
        from tokenizers import Tokenizer

        text = self.bundle.read_tokenizer()
        try:
            return Tokenizer.from_str(text)
        # The library raises a bare Exception for a damaged file.
        except Exception as error:  # noqa: BLE001
            raise UsageError(f"{self.bundle.tokenizer}: cannot be used ({error}). {COPY}") from None

    @property
    def _image(self) -> Graph:
        return self._asked or self._opened.graph

    @cached_property
    def _opened(self) -> _Opened:
        """The image graph, loaded: the one asked for, or the fastest. Loads all of them if it must choose."""
        graphs = self.bundle.manifest.image
        if self._asked or len(graphs) == 1:
            graph = self._asked or next(iter(graphs.values()))
            return self._open(graph, graph.precision + ("" if self._asked else ", the only one shipped"))
        opened = {name: self._open(graph, "") for name, graph in graphs.items()}
        size, batch = self.preprocess.size, _usual(next(iter(opened.values())).on_cuda)
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        name, words = fastest(
            {name: partial(self._guarded, graphs[name], each.call, pixels) for name, each in opened.items()}, batch
        )
        return opened[name]._replace(words=words)

    def _open(self, graph: Graph, words: str) -> _Opened:
        session = self._sessions.open_graph(self.bundle, "image", graph)
        if session.get_providers()[0] == CUDA:
            return _Opened(graph, CudaBufferPool(load_onnxruntime(), session, self.dim).run, True, words)
        return _Opened(graph, lambda pixels: session.run(["embedding"], {"pixels": pixels})[0], False, words)

    @cached_property
    def _text_session(self) -> InferenceSession:
        return self._sessions.open_graph(self.bundle, "text", self._text)

    def _run_text(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._text_session.run(["embedding"], inputs)[0]

    def _guarded(self, graph: Graph, call: Callable[[T], np.ndarray], given: T) -> np.ndarray:
        """`call(given)`. Raises CliplineError, which names the graph's file, where onnxruntime fails."""
        try:
            return call(given)
        except errors(load_onnxruntime()) as error:
            inputs = given if isinstance(given, dict) else {"pixels": given}
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise CliplineError(
                f"{self.bundle.folder / graph.file}: onnxruntime failed on {shapes}: {first_line(error)}. "
                "Fix: if memory ran out, use smaller batches; else export the model again"
            ) from error


def usable(vector: np.ndarray) -> bool:
    """Whether an embedding [dim] has a direction: no search could use NaN or zeros."""
    return bool(np.isfinite(vector).all() and vector.any())


def _usual(on_cuda: bool) -> int:
    return USUAL_BATCH["cuda" if on_cuda else "cpu"]


def _graph(bundle: Bundle, side: Literal["image", "text"], precision: str) -> Graph:
    graphs: dict[str, Graph] = getattr(bundle.manifest, side)
    if precision not in graphs:
        raise UsageError(f"{bundle.folder}: no {precision} {side} graph; it has {', '.join(graphs) or 'none'}")
    return graphs[precision]
