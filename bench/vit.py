"""A ViT-B/32 as exported from `clip_finetune`, with random weights, on which speed does not depend."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from clipline.errors import CliplineError
from clipline.utils.checksums import write_json
from clipline.utils.files import atomic_folder

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "recipe" / "clip_finetune.yaml"
EXPORT = ("export", "fold", "graph", "fp16", "int8", "int8_layers")
# Modules that the graphs depend on: if one changes, the graphs are made again.
MAKERS = ("model.image_tower", "model.clip", *(f"export.{name}" for name in EXPORT))
OPSET, CALIBRATION, PROBE, BATCH = 20, 64, 16, 8


def folder(cache: Path) -> Path:
    """The folder of the model, which may not exist yet."""
    files = [importlib.util.find_spec(f"clipline.{name}").origin for name in MAKERS]
    digest = hashlib.sha256(b"".join(Path(file).read_bytes() for file in (*files, RECIPE, __file__)))
    return cache / f"vit-b-32-{digest.hexdigest()[:12]}"


def make(out: Path, photos: Path) -> None:
    """Write the model to `out` in fp32, fp16 and int8. photos: a folder of JPEG files that determine int8's scales."""
    import torch

    from clipline.config.base import read_yaml, validate
    from clipline.config.recipe import Recipe
    from clipline.export.export import write_graphs
    from clipline.export.manifest import manifest, preprocess_spec
    from clipline.model.clip import build_model
    from clipline.train.checkpoint import Checkpoint

    values = read_yaml(RECIPE)
    values["inputs"]["tokenizer"] = {"kind": "wordpiece", "vocab_size": 100}
    values["image"]["weights"] = "random"
    values["text"] |= {"weights": "random", "args": {"num_hidden_layers": 1, "projection_dim": 512}}
    recipe = validate(Recipe, values, str(RECIPE))
    torch.manual_seed(0)
    model = build_model(recipe, vocab_size=100).eval()
    info = {"recipe": "ViT-B/32, random weights", "dataset": "none", "dataset_fingerprint": "none"}
    checkpoint = Checkpoint(model, recipe, info)
    with atomic_folder(out) as new:
        write_graphs(model, new, recipe.inputs.image_size, OPSET)
        spec = preprocess_spec(checkpoint)
        write_json(new / "preprocess.json", spec)
        _tokenizer().save(str(new / "tokenizer.json"))
        write_json(new / "precisions.json", _precisions(new, photos, spec.make()))
        write_json(new / "manifest.json", manifest("random", checkpoint, new, OPSET, {}, {}))


def _precisions(out: Path, photos: Path, preprocess) -> dict:
    """Write fp16 and int8. Returns int8's figures, or why a precision is missing."""
    import numpy as np

    from clipline.export.fp16 import to_fp16
    from clipline.export.int8 import to_int8

    files = sorted(photos.rglob("*.jpg"))[: CALIBRATION + PROBE]
    pixels = np.stack([preprocess.read(file)[0] for file in files])
    calibration, probe = pixels[:-PROBE], pixels[-PROBE:]
    batches = [calibration[start : start + BATCH] for start in range(0, len(calibration), BATCH)]
    figures = {}
    try:
        to_fp16(out / "image.onnx", out / "image.fp16.onnx")
        int8 = to_int8(out / "image.onnx", out / "image.int8.onnx", batches, probe)
        figures["int8"] = {"cosine": int8.cosine, "layers": int8.layers, "layers_in_float": int8.in_float}
    except CliplineError as error:
        figures["missing"] = str(error)
    return figures


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(16)
    return tokenizer
