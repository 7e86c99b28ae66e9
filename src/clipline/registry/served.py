"""The exported bundle as an MLflow model: images or texts in, embeddings out. MLflow runs this file to load the model.

Each logged model holds a copy of this file and of clipline ("models from code"): nothing is pickled, and neither
torch nor an installed clipline is needed.
https://mlflow.org/docs/latest/ml/model/models-from-code/
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from clipline.errors import CliplineError
from clipline.runtime.model import OnnxModel
from clipline.utils.texts import as_texts

COLUMNS = ("image", "text")


class ClipModel(PythonModel):
    """Embeds the column `image` (a file's bytes, or these as base64) or the column `text` (strings)."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle; its graphs are loaded when first used, on CUDA where it starts."""
        self._model = OnnxModel(Path(context.artifacts["bundle"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """n rows -> float32 [n, D], L2-normalised: the numbers that `clipline embed` computes.

        Raises MlflowException (400 over HTTP) where there are both columns or none, or where a row cannot be used;
        the message names the row.
        """
        try:
            name, values = _column(model_input)
            if name == "text":
                return self._model.embed_texts(as_texts(values, "text in row"))
            return self._images(values)
        except CliplineError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _images(self, values: list[Any]) -> np.ndarray:
        parts = [np.empty((0, self._model.dim), np.float32)]
        size = self._model.usual_batch
        for start in range(0, len(values), size):
            batch = enumerate(values[start : start + size], start)
            parts.append(self._model.embed_pixels(np.stack([self._pixels(value, row) for row, value in batch])))
        return np.concatenate(parts)

    def _pixels(self, value: Any, row: int) -> np.ndarray:
        """A file's bytes -> uint8 [S, S, 3]."""
        try:
            return self._model.preprocess.read(_bytes(value))[0]
        except (CliplineError, binascii.Error) as error:
            raise CliplineError(f"image in row {row}: {error}") from error


def _column(frame: pd.DataFrame) -> tuple[str, list[Any]]:
    """Name and values of the one column that holds values; the other one may be there, but empty."""
    filled = [name for name in COLUMNS if name in frame and (not len(frame) or frame[name].notna().any())]
    if len(filled) != 1:
        columns = "both" if filled else f"neither, but {list(frame.columns)}"
        raise CliplineError(f"give a column `image` (bytes of image files) or a column `text`; found {columns}")
    return filled[0], frame[filled[0]].tolist()


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if not isinstance(value, bytes):
        raise CliplineError(f"should be a file's bytes, or these as base64; found {type(value).__name__}")
    return value


set_model(ClipModel())
