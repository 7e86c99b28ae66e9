"""Errors of wrong settings name file, key, what was found and what is allowed; the repository's settings are right."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from clipline.config.augment import Augment
from clipline.config.base import read_yaml, repository_root, resolve, validate
from clipline.config.dataset import Dataset
from clipline.config.old_keys import OLD_KEYS, Removed
from clipline.config.recipe import Head, Recipe
from clipline.config.run import Params, TrainParams, load_run
from clipline.config.training import Train
from clipline.errors import UsageError

ROOT = Path(__file__).parents[2]
DATASETS = sorted((ROOT / "configs" / "data").glob("*.yaml"))
RECIPES = sorted((ROOT / "configs" / "recipe").glob("*.yaml"))

DATASET = {
    "kind": "csv",
    "path": "photos",
    "source": {"captions": "photos.csv"},
    "expect": {"images": None, "captions": None},
    "captions": {"min_words": 1, "max_words": 20},
    "split": {"kind": "hash", "val": 0.1, "test": 100},
}


def changed(values: dict, changes: dict[str, Any]) -> dict:
    """Change nested values by dotted keys: changed(values, {"a.b": 1}); the value ... removes the key."""
    values = copy.deepcopy(values)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return values


def fault(kind: Any, values: Any) -> str:
    with pytest.raises(UsageError) as caught:
        validate(kind, values, "configs/x.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


# ---------------------------------------------------------------- the repository's settings


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_shipped_datasets_are_valid(path: Path) -> None:
    values = read_yaml(path)
    settings = validate(Dataset, values, str(path))
    assert (settings.kind, settings.path, settings.split.kind) == (
        values["kind"],
        values["path"],
        values["split"]["kind"],
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    values, settings = read_yaml(path), Recipe.from_yaml(path)
    assert (settings.image.tower, settings.text.architecture) == (
        values["image"]["tower"],
        values["text"]["architecture"],
    )
    assert settings.train.optimizer.lr.head == values["train"]["optimizer"]["lr"]["head"]


def test_the_default_run_is_valid() -> None:
    assert {"scenes", "flickr8k", "flickr8k_archive", "folder_csv"} <= {path.stem for path in DATASETS}
    assert (
        load_run(ROOT).dataset.kind == read_yaml(ROOT / "configs/data" / f"{load_run(ROOT).params.data}.yaml")["kind"]
    )


def test_settings_cannot_be_changed_after_the_check() -> None:
    dataset = validate(Dataset, DATASET, "x")
    with pytest.raises(ValidationError, match="frozen"):
        dataset.captions.min_words = 7


# ---------------------------------------------------------------- datasets


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"pth": "x"}, "unknown key `pth` (did you mean `path`?); allowed: expect,"),
        ({"captions.min_word": 2}, "captions: unknown key `min_word` (did you mean `min_words`?); allowed:"),
        ({"path": ...}, "path: this key is required and missing"),
        ({"source.captions": ...}, "source.captions: this key is required and missing"),
        ({"source.caption_column": 3}, "source.caption_column: should be a valid string, found 3"),
        ({"source.caption_column": []}, "source.caption_column: should name one column or more, each once"),
        ({"source.caption_column": ["a", "a"]}, "source.caption_column: should name one column or more, each once"),
        ({"kind": ...}, "kind: is required and missing"),
        ({"kind": "cvs"}, "kind: should be one of 'scenes', 'kaggle', 'archive', 'csv', 'hf', found 'cvs'"),
        ({"split.kind": "random"}, "split.kind: should be one of 'flickr8k', 'hash', 'column', found 'random'"),
        ({"split": None}, "split: should be a mapping (`key: value` lines), found nothing (null)"),
        ({"source": "x.csv"}, "source: should be a mapping (`key: value` lines), found 'x.csv'"),
        ({"captions.min_words": "1"}, "captions.min_words: should be a valid integer, found '1'"),
        ({"captions.min_words": 1.0}, "captions.min_words: should be a valid integer, found 1.0"),
        ({"captions.min_words": 0}, "captions.min_words: should be greater than or equal to 1, found 0"),
        ({"captions.lowercase": "no"}, "captions.lowercase: should be a valid boolean, found 'no'"),
        ({"captions.lowercase": 1}, "captions.lowercase: should be a valid boolean, found 1"),
        ({"expect.images": True}, "expect.images: should be a valid integer, found true"),
        ({"expect.images": [5]}, "expect.images: should be a valid integer, found a list"),
        ({"path": {"a": 1}}, "path: should be a valid string, found a mapping"),
        ({"captions.min_words": 30}, "captions: min_words 30 is over max_words 20"),
        ({"split.val": -0.1}, "split.val: should be greater than 0, found -0.1"),
        ({"split.val": 0}, "split.val: should be greater than 0, found 0"),
        ({"split.val": float("nan")}, "split.val: should be a finite number, found nan"),
        ({"split.test": 1.5}, "split: test: 1.5 is neither a fraction below 1 nor"),
        ({"split.test": 0.9}, "split: val + test must be below 1: something must be left for train"),
        ({"split": {"kind": "flickr8k", "seed": 1}}, "split: unknown key `seed`; allowed: kind"),
        ({"kind": "scenes", "source": {"images": 9, "size": 64}}, "source.images: should be greater than"),
        ({"kind": "scenes", "source": {"images": 10, "size": 64}}, "path: should be null, found 'photos'"),
        ({"kind": "archive"}, "source: unknown key `captions`; allowed: none"),
        ({"kind": "kaggle", "path": "flickr8k", "source": {}}, r"path: String should match pattern"),
    ],
)  # fmt: skip
def test_wrong_datasets(changes: dict[str, Any], wanted: str) -> None:
    message = fault(Dataset, changed(DATASET, changes))
    assert f"configs/x.yaml: {wanted}" in message


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_files_that_are_not_mappings(values: Any) -> None:
    assert fault(Params, values).startswith("configs/x.yaml: should be a mapping (`key: value` lines), found ")


def test_every_fault_has_a_line() -> None:
    message = fault(Dataset, changed(DATASET, {"path": 1, "captions.min_words": "a", "split.kind": "x"}))
    assert [line.split(":")[1].strip() for line in message.splitlines()] == ["captions.min_words", "split.kind", "path"]


# ---------------------------------------------------------------- recipes

TIMM = {"tower": "timm", "name": "vit_base_patch32_224", "weights": "random", "trainable": True}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"inputs.resize": "crop"}, "inputs.resize: should be 'shortest' or 'squash', found 'crop'"),
        ({"inputs.image_size": 16}, "inputs.image_size: should be greater than or equal to 32, found 16"),
        ({"trian": {}}, "unknown key `trian` (did you mean `train`?); allowed: inputs,"),
        ({"train.optimizer.lr.body": 1.0}, "train.optimizer.lr: unknown key `body`; allowed: image, text, head"),
        ({"train.optimizer.lr.head": "1e-3"}, "train.optimizer.lr.head: should be a valid number, found '1e-3'"),
        ({"train.optimizer.lr.head": float("inf")}, "train.optimizer.lr.head: should be a finite number, found inf"),
        ({"train.optimizer.betas": [0.9]}, "train.optimizer.betas: List should have at least 2 items"),
        ({"train.optimizer.betas": [0.9, 1.0]}, "train.optimizer.betas.1: should be less than 1, found 1.0"),
        ({"image.tower": "resnet"}, "image.tower: should be one of 'timm', 'vit', found 'resnet'"),
        ({"image.normalize": "imagnet"}, "image.normalize: should be 'tower', 'imagenet' or 'clip', found 'imagnet'"),
        ({"image.normalize": {"mean": [0.5] * 3, "std": [1.0, 1.0]}}, "normalize.std: List should have"),
        ({"image.normalize": {"mean": [0.5] * 3, "std": [1.0, 1.0, 0.0]}}, "normalize.std.2: should be greater than 0"),
        ({"image.weights": "hub"}, "image.weights: should be 'random', found 'hub'"),
        ({"loss.kind": "info_nce"}, "'soft_target', 'infonce', 'multi_positive', 'siglip', found 'info_nce'"),
        ({"loss.detach_targets": True}, "loss: unknown key `detach_targets`; allowed: kind, label_smoothing"),
        ({"train.schedule": {"kind": "plateau", "factor": 2.0, "patience": 1}}, "train.schedule.factor: should be"),
        # Impossible combinations.
        ({"inputs.max_length": 513}, "inputs.max_length (513) is over the 512 positions of the text tower"),
        ({"text.args": {"max_position_embeddings": 8}}, "inputs.max_length (12) is over the 8 positions"),
        ({"text.args": {"max_position_embeddings": "8"}}, "should be a whole number above 0, found '8'"),
        ({"inputs.image_size": 36}, "image.patch (8) does not divide inputs.image_size (36); nearest: [32, 40]"),
        ({"image": TIMM, "inputs.image_size": 200}, "the patch of image.name (32) does not divide"),
        ({"image.heads": 3}, "image: heads (3) must divide width (32)"),
        ({"image.init": "mimetic", "image.width": 34}, "image: init: mimetic needs a width that is a multiple of 4"),
        ({"image.pool": "last", "image.patch_dropout": 0.5}, "pool: last reads one patch"),
        ({"inputs.tokenizer": {"kind": "tower"}}, "inputs.tokenizer.kind: tower needs text.weights hub or a folder"),
        ({"inputs.tokenizer": {"kind": "tower", "lowercase": False}}, "inputs.tokenizer: lowercase: a tower's own"),
        ({"text.args": {"vocab_size": 9}}, "text: args.vocab_size is the tokenizer's"),
        ({"temperature": {"init": 0.001, "learned": True}}, "temperature: init (0.001) is a scale of 1000, over"),
        ({"image.trainable": False, "train.freeze": {"image": [{"share": 0.5}]}}, "train.freeze.image: image"),
        ({"head.kind": "tower"}, "head.kind: tower needs towers with projections"),
        ({"inputs.tokenizer": {"kind": "bpe"}}, "inputs.tokenizer: vocab_size goes with wordpiece or bpe"),
        ({"inputs.tokenizer": {"kind": "tower", "vocab_size": 500}}, "inputs.tokenizer: vocab_size goes with"),
        ({"inputs.tokenizer": {"kind": "bpe", "vocab_size": 200}}, "vocab_size: found 200; bpe needs at least 259"),
        ({"text.weights": "hub", "text.args": {}}, "text: weights: hub needs `name`, the hub's id"),
        ({"text.weights": "hub", "text.name": "a/b"}, "text: args need weights: random"),
        ({"text.weights": "some/folder", "text.args": {}}, "a trained tokenizer (wordpiece, bpe) fits only"),
        ({"train.batch_norm": "synchronized"}, "should be 'batch', 'frozen' or 'synchronised', found 'synchronized'"),
        ({"train.batch_norm": "synchronised", "train.micro_batch_size": 8}, "batch_norm: synchronised waits for all"),
        ({"train.captions_per_image": 2}, "train: captions_per_image: 2 needs captions: random"),
        ({"train.captions_per_image": 2, "train.captions": "random"}, "needs loss.kind multi_positive or siglip"),
        ({"head.num_heads": 3}, "head: num_heads (3) must divide dim (16)"),
        ({"train.augment": {"flip": 0.5, "disable_last_epochs": 1}}, "disable_last_epochs (1) must be under"),
        ({"train.views": 2}, "train.views needs train.augment to change images"),
        ({"train.views": 2, "train.augment": {"flip": 0.5}}, "train.views needs an image tower that is"),
        ({"image.trainable": False, "train.views": 2}, "train.views needs train.augment to change images"),
        ({"image.trainable": False, "train.augment": {"flip": 0.5}}, "so that its images cannot change. Fix: set"),
        ({"text.trainable": False, "train.augment": {"word_dropout": 0.1}}, "train.augment.word_dropout: the features"),
    ],
)  # fmt: skip
def test_wrong_recipes(make_recipe: Callable, changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_recipe(changes)
    message = str(caught.value)
    assert message.startswith("tiny.yaml: ")
    assert wanted in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ('{"max_position_embeddings": 10}', r"inputs\.max_length \(12\) is over the 10 positions"),
        ('{"text_config": {"max_position_embeddings": 10}}', r"inputs\.max_length \(12\) is over the 10 positions"),
        ('{"max_position_embeddings": "many"}', r"config\.json is damaged"),
        ("{", r"config\.json is damaged"),
        ("[]", r"config\.json is damaged"),
    ],
)
def test_positions_of_a_local_tower(make_recipe: Callable, tmp_path: Path, content: str, wanted: str) -> None:
    (tmp_path / "config.json").write_text(content)
    changes = {"text.weights": str(tmp_path), "text.args": {}, "inputs.tokenizer": {"kind": "tower"}}
    with pytest.raises(UsageError, match=wanted):
        make_recipe(changes)


# ---------------------------------------------------------------- keys of earlier versions


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("train.augment", "off_last", "disable_last_epochs"),
        ("train", "chunk", "micro_batch_size"),
        ("head", "copies", "num_heads"),
    ],
)
def test_a_renamed_key_is_an_error_in_a_file_and_read_from_a_checkpoint(
    make_recipe: Callable, section: str, old: str, new: str
) -> None:
    changes = {"train.epochs": 3, "train.augment": {"flip": 0.5, "disable_last_epochs": 2}}
    changes |= {"train.micro_batch_size": 2, "head.num_heads": 2}
    recipe = make_recipe(changes)
    values = recipe.model_dump(mode="json")
    mapping = values
    for part in section.split("."):
        mapping = mapping[part]
    mapping[old] = mapping.pop(new)
    assert fault(Recipe, values) == f"configs/x.yaml: {section}: `{old}` was renamed. Fix: write `{new}`"
    assert validate(Recipe, values, "config.json", from_earlier_version=True) == recipe


@pytest.mark.parametrize("from_earlier_version", [False, True])
def test_a_removed_key_is_accepted_at_its_default_only(make_recipe: Callable, from_earlier_version: bool) -> None:
    recipe = make_recipe({"train.augment": {"flip": 0.5}})
    values = recipe.model_dump(mode="json")
    values["train"]["augment"] |= {"synonyms": None, "erase": None, "grey": 0.0}
    assert validate(Recipe, values, "x", from_earlier_version=from_earlier_version) == recipe
    values["train"]["augment"]["grey"] = 0.2
    with pytest.raises(
        UsageError, match=r"train\.augment: `grey` was removed: only 0\.0 is still accepted\. Fix: leave"
    ):
        validate(Recipe, values, "x", from_earlier_version=from_earlier_version)


def test_old_keys_name_classes_and_keys_that_exist() -> None:
    for key, new in OLD_KEYS.items():
        section, _, old = key.partition(".")
        (kind,) = (kind for kind in (Augment, Head, Train, TrainParams) if kind.__name__ == section)
        assert old not in kind.model_fields
        assert isinstance(new, Removed) or new in kind.model_fields


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"a: [1, 2", "line 1: not valid YAML: expected ',' or ']'"),
        (b"a: 1\na: 2\n", 'line 2: not valid YAML: found duplicate key "a"'),
        (b"a: 1\n\tb: 2\n", "line 2: not valid YAML: found character '\\t' that cannot start any token"),
        (b"a: b: c\n", "line 1: not valid YAML: mapping values are not allowed here"),
        (b"a: caf\xe9\n", "not valid YAML: 'utf-8' codec can't decode byte 0xe9"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"a: !!python/object:os.system x\n", "not valid YAML: could not determine a constructor"),
        (b"a: \x01\n", "not valid YAML"),
    ],
)
def test_broken_yaml_is_a_one_line_error_with_the_line_number(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_as_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.yaml: no such file"):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("yes", "yes"), ("010", 10), ("~", None)]
)
def test_yaml_is_version_1_2_as_in_dvc(tmp_path: Path, text: str, value: Any) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {text}\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": value}


# ---------------------------------------------------------------- runs


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "wanted"),
    [
        ("params.yaml", "data: scenes", "data: flikr8k", "data: no such data: `flikr8k` (did you mean `flickr8k`?)"),
        ("params.yaml", "recipe: scenes_tiny", "recipe: scene_tiny", "recipe: no such recipe: `scene_tiny` (did"),
        ("params.yaml", "recipe: scenes_tiny", "recipe: 3", "recipe: should be a valid string, found 3"),
        ("params.yaml", "recipe: scenes_tiny", "", "recipe: this key is required and missing"),
        ("params.yaml", "device: auto", "device: gpu", "train.device: should be 'auto', 'cpu' or 'cuda', found 'gpu'"),
        ("params.yaml", "devices: 1", "devices: 1\n  shard: true", "train: `shard` was removed: only false is still"),
        ("params.yaml", "max_broken: 0.01", "max_broken: 1.01", "max_broken: should be less than or equal to 1"),
        ("params.yaml", "max_broken: 0.01", "max_brokn: 0.01", "unknown key `max_brokn` (did you mean"),
        ("configs/data/scenes.yaml", "kind: scenes", "kind: scene", "scenes.yaml: kind: should be one of"),
        ("configs/recipe/scenes_tiny.yaml", "max_length: 32", "max_length: 65", "max_length (65) is over the 64"),
    ],
)  # fmt: skip
def test_a_wrong_run_names_the_file(repository: Path, file: str, old: str, new: str, wanted: str) -> None:
    load_run(repository)
    edit(repository / file, old, new)
    with pytest.raises(UsageError) as caught:
        load_run(repository)
    assert file in str(caught.value)
    assert wanted in str(caught.value)


def test_paths_start_at_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "there"))
    assert resolve("../x.zip") == tmp_path / "x.zip"
    assert resolve(tmp_path / "x.zip") == tmp_path / "x.zip"
    assert resolve("~/x.zip") == Path("~/x.zip").expanduser().resolve()
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    assert repository_root() == tmp_path
