"""The torch model as evaluation uses it: pixels and texts in, normalised numpy embeddings out.

The same two methods as `runtime.OnnxModel`, so that torch and the exported graphs are measured by one function.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer

from clipline.model.clip import CLIP, ImageEmbedder, TextEmbedder
from clipline.utils.malloc import keep_freed_memory


class TorchModel:
    """A CLIP with its tokenizer (which pads and truncates by itself) on one device."""

    def __init__(self, model: CLIP, tokenizer: Tokenizer, device: torch.device) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.device, self.tokenizer = device, tokenizer
        self.image = ImageEmbedder(model).to(device).eval()
        self.text = TextEmbedder(model).to(device).eval()

    @torch.inference_mode()
    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [b, S, S, 3] -> float32 [b, D], L2-normalised."""
        return self.image(torch.from_numpy(pixels).to(self.device)).cpu().numpy()

    @torch.inference_mode()
    def embed_texts(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """Texts -> float32 [n, D], L2-normalised."""
        out = []
        for start in range(0, len(texts), batch_size):
            encodings = self.tokenizer.encode_batch(texts[start : start + batch_size])
            ids = torch.tensor([e.ids for e in encodings], device=self.device)
            mask = torch.tensor([e.attention_mask for e in encodings], device=self.device)
            out.append(self.text(ids, mask).cpu().numpy())
        return np.concatenate(out)
