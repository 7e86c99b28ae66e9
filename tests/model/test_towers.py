"""Towers: pooling, normalisation, weights from files, and each way in which weights cannot be loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipline.errors import CliplineError, UsageError
from clipline.model.clip import build_model
from clipline.model.image_tower import build_image_tower
from clipline.model.text_tower import build_text_tower, text_config
from clipline.train.batches import trim

ROOT = Path(__file__).parents[2]

PIXELS = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TIMM = {"tower": "timm", "name": "test_resnet", "weights": "random", "trainable": True}
ARGS = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2},
    "clip_text_model": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
}


@pytest.mark.parametrize(
    ("image", "width"),
    [
        (
            {
                "tower": "vit",
                "patch": 8,
                "width": 32,
                "depth": 1,
                "heads": 2,
                "mlp": 48,
                "trainable": True,
                "pool": p,
            },
            32,
        )
        for p in ("cls", "last", "avg")
    ]
    + [({**TIMM, "pool": p}, 96) for p in ("avg", "tower")]
    + [({**TIMM, "pool": "avg_std"}, 192), ({**TIMM, "name": "test_vit", "pool": "avg_std"}, 128)]
    + [({**TIMM, "name": "test_vit", "pool": p}, 64) for p in ("tower", "cls", "last", "avg")],
)
def test_every_pool_gives_features_of_the_towers_width(make_recipe, image, width):
    tower = build_image_tower(make_recipe({"image": image}), load=False).eval()
    features = tower(PIXELS)
    assert features.shape == (3, tower.width) and tower.width == width
    assert torch.allclose(tower(PIXELS[1:2]), features[1:2], atol=1e-5)  # images do not affect each other


@pytest.mark.parametrize(("name", "width"), [("test_mambaout", 64), ("mixer_s32_224", 512), ("test_vit3", 96)])
def test_feature_maps_in_other_layouts(make_recipe, name, width):
    """Maps with the channels last, tokens without a class token, and an input size that the name does not have."""
    image = {**TIMM, "name": name, "pool": "avg"}
    tower = build_image_tower(make_recipe({"image": image}), load=False).eval()
    assert tower(PIXELS).shape == (3, width) and tower.width == width
    shape = tower.net.forward_features(torch.zeros(1, 3, 32, 32)).shape
    assert width in shape and shape[0] == 1


def test_pools_differ(make_recipe):
    vit = {"tower": "vit", "patch": 8, "width": 32, "depth": 1, "heads": 2, "mlp": 48, "trainable": True}
    torch.manual_seed(0)
    tower = build_image_tower(make_recipe({"image": {**vit, "pool": "cls"}}), load=False).eval()
    tokens = tower.net.forward_features((PIXELS.float() / 255 - tower.mean).div(tower.std).permute(0, 3, 1, 2))
    assert torch.equal(tower(PIXELS), tokens[:, 0])
    both = torch.cat([tokens[:, 1:].mean(1), tokens[:, 1:].std(1, correction=0)], dim=1)
    for pool, expected in (("last", tokens[:, -1]), ("avg", tokens[:, 1:].mean(1)), ("avg_std", both)):
        tower.pool = pool
        assert torch.allclose(tower(PIXELS), expected, atol=1e-5)


def test_patch_dropout_applies_in_training_only(make_recipe):
    """A quarter of the 16 patches is left out, different ones in each pass; the class token stays."""
    vit = {"tower": "vit", "patch": 8, "width": 32, "depth": 1, "heads": 2, "mlp": 48, "trainable": True}
    torch.manual_seed(0)
    complete = build_image_tower(make_recipe({"image": vit}), load=False)
    tower = build_image_tower(make_recipe({"image": {**vit, "patch_dropout": 0.25}}), load=False)
    tower.load_state_dict(complete.state_dict())
    seen = []
    tower.net.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    assert torch.equal(tower.eval()(PIXELS), complete.eval()(PIXELS))
    assert not torch.equal(tower.train()(PIXELS), tower(PIXELS))
    assert [tokens.shape[1] for tokens in seen] == [17, 13, 13]
    assert torch.equal(seen[1][:, 0], seen[0][:, 0])


def test_mirror_applies_in_evaluation_only(make_recipe):
    torch.manual_seed(0)
    image = {**TIMM, "pool": "avg"}
    one, both = (build_image_tower(make_recipe({"image": {**image, "mirror": on}}), load=False) for on in (False, True))
    both.load_state_dict(one.state_dict())
    one.eval(), both.eval()
    mean = (one(PIXELS) + one(PIXELS.flip(2))) / 2
    assert torch.equal(both(PIXELS), mean) and not torch.allclose(mean, one(PIXELS), atol=1e-3)
    assert torch.allclose(both(PIXELS.flip(2)), mean, atol=1e-6)
    with both.one_side():
        assert torch.equal(both(PIXELS), one(PIXELS))
    assert both.mirror and torch.equal(both.train()(PIXELS), one.train()(PIXELS))


def test_a_feature_map_of_zeros_has_a_finite_gradient(make_recipe):
    """The square root's slope is infinite at 0, and a ReLU often sets a whole channel to 0."""
    tower = build_image_tower(make_recipe({"image": {**TIMM, "pool": "avg_std"}}), load=False).eval()
    tower.net.forward_features = lambda x: torch.zeros(len(x), 96, 2, 2) * x.mean()
    pixels = PIXELS.float().requires_grad_()
    tower(pixels).sum().backward()
    assert torch.isfinite(pixels.grad).all()


def test_mlp_width_is_what_the_recipe_says(make_recipe):
    assert build_image_tower(make_recipe(), load=False).net.blocks[0].mlp.fc1.out_features == 48


@pytest.mark.parametrize(
    ("normalize", "mean"),
    [("imagenet", 0.485), ("clip", 0.4814), ("tower", 0.5), ({"mean": [0.1] * 3, "std": [0.2] * 3}, 0.1)],
)
def test_mean_and_standard_deviation_of_pixels(make_recipe, normalize, mean):
    image = {**TIMM, "name": "mobilenetv1_100", "normalize": normalize}
    tower = build_image_tower(make_recipe({"image": image}), load=False)
    assert tower.mean[0].item() == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("architecture", ARGS)
@pytest.mark.parametrize("pool", ["cls", "mean", "mean_cls", "eot"])
def test_padding_changes_no_text_feature(make_recipe, architecture, pool):
    recipe = make_recipe({"text.architecture": architecture, "text.args": ARGS[architecture], "text.pool": pool})
    tower = build_text_tower(recipe, 100).eval()
    ids = torch.arange(1, 13).view(2, 6)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    features = tower(ids, mask)
    assert features.shape == (2, 64 if pool == "mean_cls" else 32)
    assert torch.allclose(features[1:], tower(ids[1:, :4], mask[1:, :4]), atol=1e-5)
    changed = ids.clone()
    changed[1, 4:] = 99  # the ids of padding must not matter
    assert torch.allclose(features, tower(changed, mask), atol=1e-5)


def test_eot_pools_the_last_real_token(make_recipe):
    tower = build_text_tower(make_recipe({"text.pool": "eot"}), 100).eval()
    ids, mask = torch.arange(1, 13).view(2, 6), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    hidden = tower.net(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(tower(ids, mask), torch.stack([hidden[0, 5], hidden[1, 2]]))


LAYERS = {
    "bert": "num_hidden_layers",
    "distilbert": "n_layers",
    "gpt2": "n_layer",
    "clip_text_model": "num_hidden_layers",
}


@pytest.mark.parametrize("architecture", ARGS)
def test_the_last_layers_are_joined_in_order(make_recipe, architecture):
    args = {**ARGS[architecture], LAYERS[architecture]: 2}
    recipe = make_recipe({"text.architecture": architecture, "text.args": args, "text.pool": "mean", "text.layers": 2})
    tower = build_text_tower(recipe, 100).eval()
    ids, mask = torch.arange(1, 13).view(2, 6), torch.ones(2, 6, dtype=torch.int64)
    out = tower.net(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    expected = torch.cat([out.hidden_states[1].mean(1), out.last_hidden_state.mean(1)], dim=1)
    assert tower.width == 64 and torch.allclose(tower(ids, mask), expected, atol=1e-6)


def test_trim_cuts_to_the_longest():
    ids, mask = trim(torch.arange(20, dtype=torch.int32).view(2, 10), torch.tensor([2, 4], dtype=torch.int32), 4)
    assert ids.shape == (2, 4) and ids.dtype == torch.int64
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_saved_text_config_builds_the_same_tower(make_recipe):
    tower = build_text_tower(make_recipe(), 100)
    again = build_text_tower(make_recipe(), 100, saved_config=text_config(tower))
    again.load_state_dict(tower.state_dict())
    assert again.net.config.to_dict() == tower.net.config.to_dict()


def test_local_weights_are_loaded_and_a_classifier_is_ignored(make_recipe, tmp_path):
    source = build_image_tower(make_recipe({"image": TIMM}), load=False).net
    file = tmp_path / "weights.safetensors"
    save_file({**source.state_dict(), "fc.weight": torch.zeros(10, 96)}, file)
    for weights in (file, tmp_path):
        if weights is tmp_path:
            file.rename(tmp_path / "model.safetensors")
        tower = build_image_tower(make_recipe({"image": {**TIMM, "weights": str(weights)}}), load=True)
        assert all(
            torch.equal(a, b)
            for a, b in zip(source.state_dict().values(), tower.net.state_dict().values(), strict=True)
        )


def test_a_local_text_folder_is_loaded(make_recipe, tmp_path):
    source = build_text_tower(make_recipe(), 100)
    source.net.save_pretrained(tmp_path)
    recipe = make_recipe({"text.weights": str(tmp_path), "text.args": {}, "inputs.tokenizer": {"kind": "tower"}})
    tower = build_text_tower(recipe, 100)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), tower.state_dict().values(), strict=True)
    )
    with pytest.raises(UsageError, match="tokenizer has 101 tokens, the text tower only 100"):
        build_text_tower(recipe, 101)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, state: None, "does not exist"),
        (lambda path, state: path.write_bytes(b"not safetensors"), "is damaged"),
        (lambda path, state: save_file(dict(list(state.items())[1:]), path), "1 tensors missing"),
        (lambda path, state: save_file({**state, "extra": torch.zeros(1)}, path), "1 unexpected"),
        (lambda path, state: save_file({**state, next(iter(state)): torch.zeros(3)}, path), "does not fit"),
    ],
)
def test_weights_that_do_not_fit_are_one_clear_line(make_recipe, tmp_path, write, message):
    path = tmp_path / "w.safetensors"
    write(path, build_image_tower(make_recipe({"image": TIMM}), load=False).net.state_dict())
    with pytest.raises(CliplineError, match=message) as error:
        build_image_tower(make_recipe({"image": {**TIMM, "weights": str(path)}}), load=True)
    assert "image.weights" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": {**TIMM, "name": "resnet5000"}}, "timm has no model 'resnet5000'"),
        ({"image": {**TIMM, "pool": "cls"}}, "needs a transformer"),
        ({"image": {**TIMM, "name": "test_vit2", "pool": "cls"}}, "test_vit2 has no class token"),
        (
            {"image": {**TIMM, "args": {"padtype": "same"}}},
            r"image.args: {'padtype': 'same'} is not accepted by the model: .*padtype",
        ),
        ({"text.args": {"hiden_size": 3}}, "hiden_size"),
        (
            {"text.args": {"hidden_size": 130, "num_attention_heads": 4}},
            r"text.args: .* is not accepted by the model: .*130",
        ),
        ({"text.args": {"hidden_size": "x"}}, "text.args: {'hidden_size': 'x'} is not accepted by the model"),
        ({"head.kind": "tower"}, "head.kind: tower needs towers with projections"),
        ({"text.layers": 2}, r"text.layers \(2\) is over the tower's 1"),
        (
            {"text.layers": 2, "head.kind": "tower", "image": TIMM, "text.architecture": "clip_text_model"},
            "head.kind: tower takes features of the tower's own width",
        ),
    ],
)
def test_impossible_towers_are_usage_errors(make_recipe, changes, message):
    with pytest.raises(UsageError, match=message):
        build_model(make_recipe(changes), 100)


def test_no_network_is_one_clear_line_within_seconds(tmp_path):
    """Real requests in another process, to a port on which no server listens."""
    code = f"""
from pathlib import Path
from clipline.config.base import read_yaml, validate
from clipline.config.recipe import Recipe
from clipline.errors import CliplineError
from clipline.model.image_tower import build_image_tower
from clipline.model.text_tower import build_text_tower

def recipe(name):
    values = read_yaml(Path({str(ROOT)!r}, "configs/recipe", name))
    values["text"]["weights"] = "hub"; values["inputs"]["tokenizer"] = {{"kind": "tower"}}
    return validate(Recipe, values, "r")

for build, name, option in ((build_image_tower, "mobilenet_minilm.yaml", {{"load": True}}),
                            (build_text_tower, "vit_distilbert.yaml", {{"vocab_size": 100}})):
    try:
        build(recipe(name), **option)
    except CliplineError as error:
        print("ERROR", error)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 2, result.stderr[-2000:]
    for line, tower in zip(lines, ("image", "text"), strict=True):
        assert f"{tower}.weights" in line and "Fix" in line
