"""The exported model in Python, without torch: `from clipline import Clip`.

clip = Clip("models/onnx")
images = clip.embed_images(["a.jpg", "b.jpg"])              # float32 [2, dim], L2-normalised
texts = clip.embed_texts(["a dog", "a boat"])               # float32 [2, dim]
images @ texts.T                                            # cosines [2, 2]
clip.embed_folder("photos", "embeddings")                   # parquet files; run again: only new and changed images
clip.search("embeddings", "two dogs in the snow", n=3)      # [[Result(path, file, score), ...]]
clip.classify(["a.jpg"], ["dog", "boat"])                   # [[("dog", 0.98), ("boat", 0.02)]]
clip.match("a.jpg", ["a dog runs", "a boat at sea"])        # [0.97, 0.03]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from clipline.errors import KindError, UsageError
from clipline.image import Picture, as_pictures, is_picture
from clipline.registry import model_folder
from clipline.runtime.bundle import PrecisionChoice
from clipline.runtime.model import OnnxModel
from clipline.search import encode
from clipline.search.index import Index
from clipline.search.searcher import Result, Searcher
from clipline.utils.texts import as_texts

if TYPE_CHECKING:
    from clipline.embed.summary import Summary

ImageInput = Picture
"""An image file's path or bytes, a binary file, an array uint8 [H, W, 3], or an image that Pillow has opened."""
Query = Picture
"""A text (str), an image of any other kind (the path of its file as a Path), or an embedding, an array [dim]."""


class Clip:
    """An exported model. model: its folder, or its name in MLflow (`models:/clipline@champion`; needs mlflow).

    provider: `cpu`, `cuda`, or `auto` for CUDA where it starts. precision: of the image graph, `auto` for the fastest
    that was exported. threads: of the CPU; None means every core that this process may use. Graphs are loaded when
    first used. Raises UsageError where there is no such model, or it lacks the precision or the provider.
    """

    def __init__(
        self,
        model: str | Path = "models/onnx",
        *,
        provider: Literal["auto", "cpu", "cuda"] = "cpu",
        precision: PrecisionChoice = "fp32",
        threads: int | None = None,
    ) -> None:
        self._open = partial(OnnxModel, model_folder(model), provider=provider, precision=precision, threads=threads)
        self._model, self._precision, self._threads = self._open(), precision, threads
        self._searchers: dict[tuple, Searcher] = {}

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._model.dim

    @property
    def model_id(self) -> str:
        """Only embeddings with the same model_id may be compared."""
        return self._model.model_id

    def embed_images(self, images: ImageInput | Sequence[ImageInput]) -> np.ndarray:
        """float32 [n, dim], L2-normalised. Raises CliplineError, which names the image, for one that cannot be read.

        What is no image at all, such as None, is a KindError, which is a UsageError and a TypeError.
        """
        return encode.embed_images(self._model, images, self._threads)

    def embed_texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """float32 [n, dim], L2-normalised. Raises UsageError, which names the text, for one that is empty or no str."""
        return encode.embed_texts(self._model, texts, "text")

    def embed_folder(
        self, images: str | Path, out: str | Path, *, prune: bool = False, overwrite: bool = False
    ) -> Summary:
        """Embed a folder of images, or another source that `clipline embed` takes, into the embeddings folder `out`.

        Run again, it embeds only new and changed images. prune: drop the embeddings of images that are gone. overwrite:
        embed all images again. Images that cannot be read are counted and listed in errors.parquet; `Summary.enforce`
        raises for them. Raises UsageError before any work, and CliplineError where `out` is in use or damaged.
        """
        from clipline.embed.run import Options, embed
        from clipline.embed.sources import open_source
        from clipline.embeddings.manifest import precision_for

        out = Path(out)
        source = open_source(str(images), skip=out)
        model = self._open(precision=precision_for(out, self._precision, overwrite=overwrite), bulk=True)
        return embed(source, model, out, Options(threads=self._threads, prune=prune, overwrite=overwrite))

    def search(
        self,
        folder: str | Path,
        query: Query | Sequence[Query],
        n: int = 9,
        *,
        without: Sequence[str] = (),
        min_score: float | None = None,
        approximate: bool | None = None,
        root: str | Path | None = None,
    ) -> list[list[Result]]:
        """The `n` best images of an embeddings folder for each query, best first: Result(path, file, score).

        query: one or a list (`Query`). without: texts whose mean embedding is subtracted from that of each query.
        min_score: images with a lower score are left out. approximate: None decides by the folder's size. root: where
        the images are now, None for where they were. The folder stays open, and is opened again when it has changed.
        Raises UsageError where `folder` holds no embeddings or those of another model, CliplineError where it is
        damaged.
        """
        searcher = self._searcher(Path(folder), approximate, Path(root) if root else None)
        is_vector = isinstance(query, np.ndarray) and query.dtype.kind in "biuf" and query.ndim == 1
        queries = [self._vector(one) for one in ([query] if is_vector else as_pictures(query))]
        vectors = np.concatenate([np.empty((0, self.dim), np.float32), *queries])
        vectors = encode.subtract_mean(vectors, encode.embed_texts(self._model, without, "text of `without`"))
        return [searcher.results(hits, min_score) for hits in searcher.hits(vectors, n, [])]

    def classify(
        self,
        images: Sequence[ImageInput],
        labels: Sequence[str],
        templates: Sequence[str] | None = None,
        top: int = 5,
    ) -> list[list[tuple[str, float]]]:
        """For each image its `top` labels with their probabilities among `labels`, likeliest first.

        templates: prompts with `{}` for the label; None takes TEMPLATES["captions"] of `clipline.classify.zeroshot`.
        Raises as `embed_images`, and UsageError for an empty label or a template without `{}`.
        """
        from clipline.classify import zeroshot

        labels = as_texts(labels, "label")
        classes = zeroshot.class_vectors(self._model, labels, templates)
        shares = zeroshot.probabilities(self.embed_images(images), classes, zeroshot.logit_scale(self._model))
        return zeroshot.top_labels(labels, shares, top)

    def match(self, image: ImageInput, captions: Sequence[str]) -> np.ndarray:
        """How likely each caption is for the image, among `captions`: float32 [captions], sums to 1."""
        from clipline.classify import zeroshot

        return zeroshot.caption_probabilities(self._model, self.embed_images([image]), captions)[0]

    def _vector(self, query: Query) -> np.ndarray:
        """float32 [1, dim], L2-normalised."""
        if isinstance(query, str):
            return self.embed_texts([query])
        if is_picture(query):
            return self.embed_images([query])
        try:
            vector = np.asarray(query, np.float32)
        except (TypeError, ValueError):
            raise KindError(f"a query is a text, an image or an embedding, and not {type(query).__name__}") from None
        norm = np.linalg.norm(vector)
        if vector.shape != (self.dim,) or not np.isfinite(norm) or not norm:
            raise UsageError(f"a query of shape {list(vector.shape)}: an embedding here is [{self.dim}], and not zero")
        return vector[np.newaxis] / norm

    def _searcher(self, folder: Path, approximate: bool | None, root: Path | None) -> Searcher:
        key = (folder, approximate, root)
        if key not in self._searchers or not self._searchers[key].index.fresh():
            self._searchers.pop(key, None)  # before the new one takes memory as well
            self._searchers[key] = Searcher(Index(folder), self._model, root=root, approximate=approximate)
        return self._searchers[key]
