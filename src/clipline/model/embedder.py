"""The torch model for evaluation: pixels and texts in, normalised numpy embeddings out.

It has the methods of `runtime.OnnxModel`, so that the same functions measure torch and the exported graphs.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer

from clipline.model.clip import CLIP, ImageEmbedder, TextEmbedder
from clipline.utils.malloc import keep_freed_memory


class TorchModel:
    """A CLIP in evaluation mode on one device, with its tokenizer, which must pad and truncate by itself."""

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
        embeddings = []
        for start in range(0, len(texts), batch_size):
            encodings = self.tokenizer.encode_batch(texts[start : start + batch_size])
            ids = torch.tensor([encoding.ids for encoding in encodings], device=self.device)
            mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=self.device)
            embeddings.append(self.text(ids, mask).cpu().numpy())
        return np.concatenate(embeddings)
