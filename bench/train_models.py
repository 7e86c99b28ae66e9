"""The models of bench/train.py with random weights, as clipline and as open_clip build them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "recipe"
# Width and layers of the image and of the text tower. vit_b_32 is CLIP's.
SHAPES = {"vit_b_32": ((768, 12), (512, 12)), "tiny": ((64, 2), (64, 2))}
# Width of an attention head in both towers.
HEAD_WIDTH = {"vit_b_32": 64, "tiny": 32}
SIZE, PATCH, DIM = 224, 32, 512


@dataclass(frozen=True)
class Job:
    """A measurement. frozen: lock the image tower. compile: torch.compile the model, as the recipe setting."""

    model: str
    device: str
    batch_size: int
    tokens: int
    steps: int
    precision: str
    threads: int
    compile: bool | str
    frozen: bool

    def settings(self) -> dict[str, Any]:
        """The settings that all measurements share, for the results."""
        return {key: value for key, value in asdict(self).items() if key != "frozen"}


def vocabulary(model: str) -> int:
    """Number of tokens of the text tower: CLIP's or DistilBERT's."""
    return 30522 if model == "resnet50_distilbert" else 49408


def recipe(job: Job):
    """clipline's Recipe, with open_clip's loss (InfoNCE) and linear projections."""
    from clipline.config.base import read_yaml, validate
    from clipline.config.recipe import Recipe

    resnet = job.model == "resnet50_distilbert"
    path = RECIPES / ("resnet50_distilbert.yaml" if resnet else "clip_finetune.yaml")
    values = read_yaml(path)
    size = vocabulary(job.model)
    values["inputs"] |= {"max_length": job.tokens, "tokenizer": {"kind": "wordpiece", "vocab_size": size}}
    values["image"] |= {"weights": "random", "trainable": not job.frozen, "normalize": "clip"}
    values["text"] |= {"weights": "random"}
    if resnet:
        values["head"] = {"kind": "linear", "dim": DIM}
        values["temperature"] = {"init": 0.07, "learned": True}
        values["loss"] = {"kind": "infonce"}
    else:
        (image_width, image_layers), (text_width, text_layers) = SHAPES[job.model]
        head = HEAD_WIDTH[job.model]
        values["image"]["args"] = {
            "embed_dim": image_width,
            "depth": image_layers,
            "num_heads": image_width // head,
        }
        values["text"]["args"] = {
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": text_width // head,
            "max_position_embeddings": job.tokens,
            "projection_dim": DIM,
        }
    values["train"] |= {"batch_size": job.batch_size, "precision": job.precision, "compile": job.compile}
    values["train"] |= {"normalize": True, "captions": "random", "grad_clip": 1.0}
    return validate(Recipe, values, str(path))


def open_clip_model(job: Job) -> Any:
    """open_clip's model with the same towers, on the CPU."""
    import open_clip as package

    if job.model == "resnet50_distilbert":
        return _resnet50_distilbert(package)
    (image_width, image_layers), (text_width, text_layers) = SHAPES[job.model]
    head = HEAD_WIDTH[job.model]
    vision = {"image_size": SIZE, "layers": image_layers, "width": image_width, "patch_size": PATCH, "head_width": head}
    text = {
        "context_length": job.tokens,
        "vocab_size": vocabulary(job.model),
        "width": text_width,
        "heads": text_width // head,
        "layers": text_layers,
    }
    return package.model.CLIP(DIM, vision, text, output_dict=True)


def _resnet50_distilbert(package: Any) -> Any:
    """timm's ResNet50 through open_clip's adapter, and DistilBERT, for which open_clip has none, in the same manner."""
    from torch import nn
    from transformers import DistilBertConfig, DistilBertModel

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = DistilBertModel(DistilBertConfig())
            self.proj = nn.Linear(self.transformer.config.dim, DIM, bias=False)

        def forward(self, ids):
            return self.proj(self.transformer(ids, (ids != 0).long()).last_hidden_state[:, 0])

    vision = {"image_size": SIZE, "timm_model_name": "resnet50", "timm_pool": "", "timm_proj": "linear"}
    # A small text tower, which is replaced below.
    small = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    model = package.model.CustomTextCLIP(DIM, vision, small, output_dict=True)
    model.text = Text()
    return model
