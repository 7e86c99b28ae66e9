"""Foreign weights: only complete safetensors are read, and never a pickle, in whatever file."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from clipline.errors import CliplineError, UsageError
from clipline.model.image_tower import build_image_tower
from clipline.model.text_tower import build_text_tower
from clipline.train import checkpoint
from clipline.train.state import CheckpointManager

TIMM = {"tower": "timm", "name": "test_resnet", "weights": "random", "trainable": True}


@pytest.fixture
def bert(make_recipe, tmp_path):
    """A local folder as transformers reads it, and the recipe that names it."""
    folder = tmp_path / "bert"
    build_text_tower(make_recipe(), 100).net.save_pretrained(folder)
    recipe = make_recipe({"text.weights": str(folder), "text.args": {}, "inputs.tokenizer": {"kind": "tower"}})
    return folder, recipe


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "weights.pth", "weights.ckpt", "weights"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_pickled_file_is_refused_by_its_name(make_recipe, tmp_path, pickled, name, tower):
    path = tmp_path / name
    path.write_bytes(pickled)
    with pytest.raises(UsageError, match=rf"{tower}\.weights: .*is no \.safetensors file.*Fix: .*save_file") as caught:
        if tower == "image":
            build_image_tower(make_recipe({"image": {**TIMM, "weights": str(path)}}), load=True)
        else:
            own = {"text.args": {}, "inputs.tokenizer": {"kind": "tower"}}
            build_text_tower(make_recipe({"text.weights": str(path), **own}), 100)
    assert "\n" not in str(caught.value) and not (tmp_path / "executed").exists()


def test_a_folder_of_pickled_weights_is_refused(bert, pickled, tmp_path):
    folder, recipe = bert
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickled)
    with pytest.raises(UsageError, match=r"text\.weights: .*holds no \.safetensors file"):
        build_text_tower(recipe, 100)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("way", ["index", "adapter", "beside"])
def test_a_pickle_behind_a_safe_name(bert, pickled, tmp_path, way):
    """An index of safe shards may name pickled ones, and config.json may name a pickled adapter."""
    folder, recipe = bert
    state = folder / "model.safetensors"
    state.rename(folder / "other.safetensors")
    if way == "index":
        (folder / "evil.bin").write_bytes(pickled)
        index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "evil.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif way == "adapter":
        (folder / "adapter_model.bin").write_bytes(pickled)
        configure(folder, transformers_weights="adapter_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickled)
    with pytest.raises(CliplineError, match=r"text\.weights: ") as caught:
        build_text_tower(recipe, 100)
    assert "pickled" in str(caught.value) or way == "beside"
    assert not (tmp_path / "executed").exists()
    assert torch.load.__name__ == "load"  # as it was


def test_code_beside_the_weights_is_not_run_nor_asked_about(bert, tmp_path, monkeypatch):
    """transformers would ask at the terminal whether to run it."""
    folder, recipe = bert
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n")
    configure(folder, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    monkeypatch.setattr("builtins.input", lambda *_: (tmp_path / "asked").touch() or "y")
    with pytest.raises(CliplineError, match=r"text\.weights: .*custom code"):
        build_text_tower(recipe, 100)
    assert not (tmp_path / "executed").exists() and not (tmp_path / "asked").exists()


def safetensors(header: dict | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes) -> dict:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


HOSTILE = {
    "empty": b"",
    "header longer than the file": safetensors({"a": entry()}, bytes(8), 10**6),
    "header of exabytes": safetensors({"a": entry()}, bytes(8), 2**63),
    "header over the limit": safetensors(b"{}", b"", 100_000_001),
    "no JSON": safetensors(b"{nonsense", bytes(8)),
    "not an object": safetensors(b"[1, 2, 3]", bytes(8)),
    "deep": safetensors(b'{"a":' * 100_000, bytes(8)),
    "offsets behind the end": safetensors({"a": entry(shape=[2**20], data_offsets=[0, 2**22])}, bytes(8)),
    "offsets that do not fit the shape": safetensors({"a": entry(shape=[9])}, bytes(8)),
    "offsets backwards": safetensors({"a": entry(data_offsets=[8, 0])}, bytes(8)),
    "negative shape": safetensors({"a": entry(shape=[-2])}, bytes(8)),
    "a shape that overflows": safetensors({"a": entry(shape=[2**40, 2**40])}, bytes(8)),
    "two tensors on the same bytes": safetensors({"a": entry(), "b": entry()}, bytes(8)),
    "a hole": safetensors({"a": entry(data_offsets=[4, 12])}, bytes(12)),
    "bytes behind the last": safetensors({"a": entry()}, bytes(16)),
    "an unknown type": safetensors({"a": entry(dtype="PICKLE")}, bytes(8)),
    "a pickle by another name": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=[name.replace(" ", "-") for name in HOSTILE])
def test_hostile_safetensors_are_one_line(make_recipe, tmp_path, data):
    """As weights, as a checkpoint, as the state of a training."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CliplineError, match=r"image\.weights: .*is damaged") as caught:
        build_image_tower(make_recipe({"image": {**TIMM, "weights": str(path)}}), load=True)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CliplineError, match=r"damaged checkpoint.*Fix: dvc repro train"):
        checkpoint.load(tmp_path)
    path.rename(tmp_path / "state-000000000001.safetensors")
    assert CheckpointManager(tmp_path).newest() is None


@pytest.mark.parametrize(
    "config", ["[]", "{}", '{"recipe": 3}', "", "null", '{"recipe": {}, "vocab_size": "x"}', "\xff"]
)
def test_a_checkpoint_with_a_damaged_config(tmp_path, config):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(config.encode("latin-1"))
    with pytest.raises(CliplineError, match=r"config\.json|damaged checkpoint"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_whose_weights_are_another_models(make_recipe, tmp_path):
    from clipline.model.clip import build_model

    recipe = make_recipe()
    checkpoint.save(tmp_path, build_model(recipe, 100), recipe, 100, {})
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CliplineError, match=r"damaged checkpoint.*Fix: dvc repro train") as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)
