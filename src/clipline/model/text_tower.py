"""Text towers: token ids [B, L] -> features [B, F]."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPTextModelWithProjection, PretrainedConfig, PreTrainedModel

from clipline.config.recipe import Recipe
from clipline.config.towers import TextTower
from clipline.errors import CliplineError, UsageError
from clipline.model.weights import arguments, loading, local_weights


class TextEncoder(nn.Module):
    """A transformers model with pooling of the last `layers` layers, whose results are joined.

    width: F, the number of features. projection: the tower's own last linear layer if the head uses it, else None.
    """

    def __init__(self, net: PreTrainedModel, pool: str, layers: int) -> None:
        super().__init__()
        self.net, self.pool, self.layers = net, pool, layers
        self.width: int = net.config.hidden_size * layers * (2 if pool == "mean_cls" else 1)
        self.projection: nn.Module | None = None

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """int64 [B, L] twice -> float32 [B, F]. The mask is 1 on tokens and 0 on padding, which follows the tokens."""
        out = self.net(input_ids=input_ids_BL, attention_mask=attention_mask_BL, output_hidden_states=self.layers > 1)
        # Not by the last hidden state: some towers apply a final LayerNorm that it lacks.
        below = out.hidden_states[-self.layers : -1] if self.layers > 1 else ()
        pooled = [self._pool(x_BLF, attention_mask_BL) for x_BLF in (*below, out.last_hidden_state)]
        return torch.cat(pooled, dim=1) if len(pooled) > 1 else pooled[0]

    def _pool(self, x_BLF: Tensor, attention_mask_BL: Tensor) -> Tensor:
        if self.pool == "cls":
            return x_BLF[:, 0]
        if self.pool in {"mean", "mean_cls"}:
            mask_BL1 = attention_mask_BL.unsqueeze(-1).to(x_BLF.dtype)
            mean_BF = (x_BLF * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1).clamp(min=1)
            return mean_BF if self.pool == "mean" else torch.cat([mean_BF, x_BLF[:, 0]], dim=1)
        last_B = attention_mask_BL.sum(dim=1).clamp(min=1) - 1
        index_B1F = last_B.view(-1, 1, 1).expand(-1, 1, x_BLF.shape[-1])
        return x_BLF.gather(1, index_B1F).squeeze(1)


def build_text_tower(recipe: Recipe, vocab_size: int, *, saved_config: dict | None = None) -> TextEncoder:
    """The text tower of `recipe`.

    vocab_size: number of tokens of the tokenizer: the size of a random tower's vocabulary, at most that of a pretrained
    one. saved_config: a checkpoint's transformers configuration; then no weights are loaded.
    Raises UsageError or CliplineError if weights cannot be loaded or do not fit.
    """
    config = recipe.text
    if saved_config is not None:
        hf_config = AutoConfig.for_model(**saved_config)
        net = _from_config(hf_config, recipe)
    elif config.weights == "random":
        with arguments("text.args", config.args):
            net = _from_config(_random_config(config, vocab_size), recipe)
    else:
        net = _pretrained(config, recipe.head.kind == "tower")
    _check(net, recipe, vocab_size)
    if recipe.head.kind == "tower":
        tower = TextEncoder(net.text_model, config.pool, config.layers)
        tower.projection = net.text_projection
        return tower
    return TextEncoder(net, config.pool, config.layers)


def _random_config(config: TextTower, vocab_size: int) -> PretrainedConfig:
    hf_config = AutoConfig.for_model(config.architecture)
    unknown = [key for key in config.args if not hasattr(hf_config, key)]
    if unknown:
        raise UsageError(
            f"text.args: {config.architecture} has no {unknown}; see transformers' {type(hf_config).__name__}"
        )
    # The defaults are ids of the original vocabulary. Pooling uses the mask, so that any valid id will do.
    special = {key: 0 for key in ("bos_token_id", "eos_token_id") if getattr(hf_config, key, None) is not None}
    return AutoConfig.for_model(config.architecture, **{**special, **config.args, "vocab_size": vocab_size})


def _from_config(hf_config: PretrainedConfig, recipe: Recipe) -> PreTrainedModel:
    if recipe.head.kind == "tower":
        _only_clip(recipe.text)
        return CLIPTextModelWithProjection(hf_config)
    return AutoModel.from_config(hf_config, **_no_pooler(recipe.text))


def _pretrained(config: TextTower, projection: bool) -> PreTrainedModel:
    path = local_weights(config.weights, "text.weights")
    source = str(path) if path else config.name
    kind = AutoModel
    if projection:
        _only_clip(config)
        kind = CLIPTextModelWithProjection
    # No report of ignored tensors and no second progress bar; missing tensors are an error below.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with loading(source, "text.weights", online=path is None):
        net, info = kind.from_pretrained(
            source, output_loading_info=True, use_safetensors=True, trust_remote_code=False, **_no_pooler(config)
        )
    if missing := sorted(info["missing_keys"]):  # transformers initialises these at random with a warning only
        raise CliplineError(
            f"text.weights: {source} lacks {len(missing)} tensors of a {config.architecture}: {missing[:3]}"
        )
    if net.config.model_type != config.architecture:
        raise UsageError(f"text.architecture: {source} is a {net.config.model_type}, not a {config.architecture}")
    return net


def _no_pooler(config: TextTower) -> dict:
    """Arguments that leave out BERT's tanh pooler, which is for next-sentence prediction."""
    return {"add_pooling_layer": False} if config.architecture == "bert" else {}


def _only_clip(config: TextTower) -> None:
    if config.architecture != "clip_text_model":
        raise UsageError(
            f"head.kind: tower needs text.architecture clip_text_model; {config.architecture} has no projection"
        )


def _check(net: PreTrainedModel, recipe: Recipe, vocab_size: int) -> None:
    if recipe.text.layers > net.config.num_hidden_layers:
        raise UsageError(f"text.layers ({recipe.text.layers}) is over the tower's {net.config.num_hidden_layers}")
    positions = getattr(net.config, "max_position_embeddings", None)
    if positions is not None and recipe.inputs.max_length > positions:
        raise UsageError(
            f"inputs.max_length ({recipe.inputs.max_length}) is over the {positions} positions of the text tower"
        )
    if vocab_size > net.config.vocab_size:
        raise UsageError(f"the tokenizer has {vocab_size} tokens, the text tower only {net.config.vocab_size}")


def text_config(tower: TextEncoder) -> dict:
    """The transformers configuration that `build_text_tower` takes back as saved_config."""
    config = tower.net.config.to_diff_dict()
    return {"model_type": tower.net.config.model_type, **config}
