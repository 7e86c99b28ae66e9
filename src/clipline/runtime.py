"""Run an exported model with onnxruntime alone: uint8 images and texts in, L2-normalised embeddings out."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from clipline import cores
from clipline.bundle import Bundle, Graph
from clipline.errors import CliplineError, UsageError
from clipline.image import Preprocess
from clipline.precision import BATCH, fastest
from clipline.provider import Sessions, errors, first_line, load_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer


class _Opened(NamedTuple):
    graph: Graph
    session: InferenceSession
    words: str


class OnnxModel:
    """An exported model (models/onnx), opened; each graph is loaded when first used.

    provider: `auto` takes CUDA where it really starts, else the CPU (`running_on` says which); `cuda` fails
    where it does not start. precision: of the image graph; `auto` times those that were shipped and takes the
    fastest (`precision_words` says which and why). Texts, being few, always take the fp32 graph.
    threads: for one call on the CPU; None means every core that this process may use. Raises UsageError where
    `folder` is no model or lacks the precision, or where the provider or onnxruntime is missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        provider: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["auto", "fp32", "fp16", "int8"] = "fp32",
        threads: int | None = None,
    ) -> None:
        self.bundle = Bundle(folder)
        self.preprocess: Preprocess = self.bundle.preprocess.make()
        self._asked = None if precision == "auto" else _graph(self.bundle, "image", precision)
        self._text = _graph(self.bundle, "text", "fp32")
        self._sessions = Sessions(provider, threads or cores.available())

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
    def running_on(self) -> str:
        """The provider in words, e.g. `CPU, 2 threads`. Loads the image graph: only that tells."""
        assert self._image_session is not None
        return self._sessions.words

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [b, S, S, 3] from `preprocess` -> float32 [b, dim]. Raises CliplineError if it fails."""
        size = self.preprocess.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8 [b, {size}, {size}, 3], got {pixels.dtype} {list(pixels.shape)}")
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        return self._run(self._image, self._image_session, {"pixels": pixels})

    def embed_texts(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """n texts -> float32 [n, dim]; `batch_size` per call. Raises CliplineError if the graph fails."""
        parts = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(texts), batch_size):
            encoded = self.tokenizer.encode_batch(texts[start : start + batch_size])
            inputs = {
                "input_ids": np.array([item.ids for item in encoded], np.int64),
                "attention_mask": np.array([item.attention_mask for item in encoded], np.int64),
            }
            parts.append(self._run(self._text, self._text_session, inputs))
        return np.concatenate(parts)

    def cut(self, texts: list[str]) -> list[str]:
        """Those of `texts` that are longer than the model reads; the rest of them is ignored."""
        return [text for text, item in zip(texts, self.tokenizer.encode_batch(texts), strict=True) if item.overflowing]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, which pads and truncates by itself."""
        from tokenizers import Tokenizer

        path = self.bundle.tokenizer
        try:
            return Tokenizer.from_str(path.read_text(encoding="utf-8"))
        # The library raises a bare Exception for a damaged file.
        except Exception as error:  # noqa: BLE001
            raise UsageError(f"{path}: cannot be used ({error}). Mend: export the model again") from None

    @property
    def _image(self) -> Graph:
        return self._asked or self._opened.graph

    @property
    def _image_session(self) -> InferenceSession:
        return self._opened.session

    @cached_property
    def _opened(self) -> _Opened:
        """The image graph, loaded: the one asked for, or the fastest. Loads all of them if it must choose."""
        graphs = self.bundle.manifest.image
        if self._asked or len(graphs) == 1:
            graph = self._asked or next(iter(graphs.values()))
            words = graph.precision + ("" if self._asked else ", the only one shipped")
            return _Opened(graph, self._sessions.open(self._path(graph)), words)
        sessions = {name: self._sessions.open(self._path(graph)) for name, graph in graphs.items()}
        size = self.preprocess.size
        pixels = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
        calls = {
            name: partial(self._run, graphs[name], session, {"pixels": pixels}) for name, session in sessions.items()
        }
        name, words = fastest(calls)
        return _Opened(graphs[name], sessions[name], words)

    @cached_property
    def _text_session(self) -> InferenceSession:
        return self._sessions.open(self._path(self._text))

    def _path(self, graph: Graph) -> Path:
        """The graph's file. Raises UsageError where it is missing or not the size that the manifest names."""
        path = self.bundle.folder / graph.file
        if not path.is_file():
            raise UsageError(f"{path}: no such file, but manifest.json names it. Mend: export the model again")
        if path.stat().st_size != graph.bytes:
            raise UsageError(
                f"{path}: {path.stat().st_size:,} bytes where manifest.json says {graph.bytes:,}: cut short, "
                "or from another export. Mend: copy the folder again, or export the model again"
            )
        return path

    def _run(self, graph: Graph, session: InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
        try:
            return session.run(["embedding"], inputs)[0]
        except errors(load_onnxruntime()) as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise CliplineError(
                f"{self.bundle.folder / graph.file}: onnxruntime failed on {shapes}: {first_line(error)}. "
                "Mend: if memory ran out, use smaller batches; else export the model again"
            ) from error


def _graph(bundle: Bundle, side: Literal["image", "text"], precision: str) -> Graph:
    graphs: dict[str, Graph] = getattr(bundle.manifest, side)
    if precision not in graphs:
        raise UsageError(f"{bundle.folder}: no {precision} {side} graph; it has {', '.join(graphs) or 'none'}")
    return graphs[precision]
