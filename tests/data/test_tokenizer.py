"""Tokenizers: trained or the tower's own, they pad, truncate and end every text by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from clipline.data.tokenizer import build, encode, find
from clipline.errors import CliplineError, UsageError

CAPTIONS = [f"A {colour} {what} runs over the {place}." for colour in ("red", "Blue", "grün") for what in ("dog", "cat")
            for place in ("grass", "snow", "playground")]  # fmt: skip
LONG = "a red dog runs over the grass and the snow and the playground and the grass"
KINDS = {
    "wordpiece": ({"kind": "wordpiece", "vocab_size": 120}, "[CLS]", "[SEP]"),
    "bpe": ({"kind": "bpe", "vocab_size": 300}, "<|startoftext|>", "<|endoftext|>"),
}


@pytest.fixture
def trained(make_recipe: Callable) -> Callable[..., Tokenizer]:
    def make(kind: str, captions: list[str] = CAPTIONS, **changes: object) -> Tokenizer:
        recipe = make_recipe({"inputs.tokenizer": KINDS[kind][0] | changes, "inputs.max_length": 8})
        return build(recipe.inputs, find(recipe.inputs, recipe.text), captions)[0]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_trained_tokenizer_frames_pads_and_keeps_the_end(trained: Callable, kind: str, tmp_path: Path) -> None:
    _, start, end = KINDS[kind]
    trained(kind).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    short, long = tokenizer.encode_batch(["a dog", LONG])
    assert len(short.ids) == len(long.ids) == 8
    assert (long.tokens[0], long.tokens[-1], sum(long.attention_mask)) == (start, end, 8)
    real = sum(short.attention_mask)
    assert short.tokens[0] == start
    assert short.tokens[real - 1] == end
    assert set(short.ids[real:]) == {0}
    assert short.attention_mask == [1] * real + [0] * (8 - real)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_goes_to_the_longest_of_the_batch(trained: Callable, kind: str) -> None:
    a, b = trained(kind).encode_batch(["red", "red dog"])
    assert len(a.ids) == len(b.ids) == sum(b.attention_mask) < 8


@pytest.mark.parametrize("kind", KINDS)
def test_case_is_folded_only_if_asked(trained: Callable, kind: str) -> None:
    folding, keeping = trained(kind), trained(kind, lowercase=False)
    assert folding.encode("RED Dog").ids == folding.encode("red dog").ids
    assert keeping.encode("RED Dog").ids != keeping.encode("red dog").ids


def test_bpe_has_tokens_for_anything_and_gives_it_back(trained: Callable) -> None:
    text = " 犬 \U0001f415 naïve"
    tokenizer = trained("bpe")
    tokenizer.no_truncation()
    assert tokenizer.decode(tokenizer.encode(text).ids).strip() == text.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_small_corpora_make_small_vocabularies(trained: Callable, kind: str) -> None:
    assert trained(kind, ["a b", "b c"], vocab_size=5000).get_vocab_size() < 300


def test_vocabulary_is_no_larger_than_asked(trained: Callable) -> None:
    chinese = ["".join(chr(0x4E00 + (7 * i + j) % 3000) for j in range(40)) for i in range(300)]
    assert trained("wordpiece", chinese, vocab_size=500).get_vocab_size() <= 500
    assert trained("bpe", chinese, vocab_size=500).get_vocab_size() == 500


def test_bpe_needs_room_for_all_bytes(trained: Callable) -> None:
    with pytest.raises(UsageError, match=r"inputs\.tokenizer: vocab_size: found 258; bpe needs at least 259"):
        trained("bpe", vocab_size=258)
    assert trained("bpe", vocab_size=259).get_vocab_size() == 259


TRAIN = """
import sys
from clipline.config.recipe import Tokenizer
from clipline.data import tokenizer as t
captions = [f"{a} {b} {c}" for a in "abcdefgh" for b in ("dog", "dot", "cat", "car") for c in ("run", "rug", "hat")]
train = t._wordpiece if sys.argv[1] == "wordpiece" else t._bpe
settings = Tokenizer.model_construct(kind=sys.argv[1], vocab_size=int(sys.argv[2]), lowercase=True)
print(train(settings, captions)[0].to_str())
"""


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 100), ("wordpiece", 40), ("bpe", 268)])
def test_training_is_the_same_in_every_process(kind: str, size: int) -> None:
    texts = set()
    for threads in ("1", "2", "8"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        call = [sys.executable, "-c", TRAIN, kind, str(size)]
        texts.add(subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(texts) == 1
    learned = [token for token in json.loads(texts.pop())["model"]["vocab"] if len(token.strip("#Ġ")) == 2]
    assert learned, "nothing was merged, so ties between merges were not tried"


def test_encode_gives_padded_rows_and_both_lengths(trained: Callable) -> None:
    tokenizer = trained("wordpiece")
    texts = ["a dog", LONG, "red"] * 4000  # more than one batch
    encoded = encode(tokenizer, texts)
    assert (encoded.tokens.shape, encoded.tokens.dtype) == ((12_000, 8), np.int32)
    for row, text in ((0, "a dog"), (1, LONG), (11_999, "red")):
        alone = tokenizer.encode(text)
        assert encoded.lengths[row] == len(alone.ids)
        np.testing.assert_array_equal(encoded.tokens[row], alone.ids + [0] * (8 - len(alone.ids)))
    assert encoded.full[0] == encoded.lengths[0] == 4
    assert encoded.lengths[1] == 8
    tokenizer.no_truncation()
    assert encoded.full[1] == len(tokenizer.encode(LONG).ids) > 8


# ---------------------------------------------------------------- the tower's own


def bert_vocabulary(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "runs", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": len(words)}))


def gpt2_tokenizer(folder: Path) -> Tokenizer:
    """As GPT-2's: byte-level BPE with one special token, no padding, nothing added to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture
def tower(make_recipe: Callable, tmp_path: Path) -> Callable[..., tuple[Tokenizer, str]]:
    def make(weights: Path = tmp_path, max_length: int = 6) -> tuple[Tokenizer, str]:
        recipe = make_recipe(
            {
                "inputs.tokenizer": {"kind": "tower"},
                "inputs.max_length": max_length,
                "text": {
                    "architecture": "bert",
                    "name": None,
                    "weights": str(weights),
                    "trainable": True,
                    "pool": "cls",
                },
            }
        )
        return build(recipe.inputs, find(recipe.inputs, recipe.text), CAPTIONS)

    return make


def test_tokenizer_json_of_the_folder_is_taken_with_our_lengths(
    tower: Callable, trained: Callable, tmp_path: Path
) -> None:
    own = trained("wordpiece")
    own.enable_truncation(128)
    own.enable_padding(length=128, pad_id=0, pad_token="[PAD]")
    own.save(str(tmp_path / "tokenizer.json"))
    tokenizer, source = tower()
    assert source == f"folder: {tmp_path}"
    assert tokenizer.get_vocab() == own.get_vocab()
    short, long = tokenizer.encode_batch(["a dog", LONG])
    assert (len(short.ids), sum(short.attention_mask)) == (6, 4)
    assert (long.tokens[-1], sum(long.attention_mask)) == ("[SEP]", 6)


def test_vocabulary_files_are_converted(tower: Callable, tmp_path: Path) -> None:
    bert_vocabulary(tmp_path)
    tokenizer, _ = tower()
    assert tokenizer.encode("A dog runs").tokens == ["[CLS]", "a", "dog", "runs", "[SEP]"]
    assert tokenizer.padding["pad_id"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.txt", "config.json"}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"eos_token_id": 0}),
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("special_tokens_map.json", {"eos_token": {"content": "<|endoftext|>"}, "pad_token": None}),
    ],
)
def test_a_tokenizer_that_marks_no_end_is_given_one(tower: Callable, tmp_path: Path, file: str, content: dict) -> None:
    gpt2_tokenizer(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    tokenizer, _ = tower()
    short, long = tokenizer.encode_batch(["A dog", LONG])
    for encoding in (short, long):
        assert encoding.tokens[sum(encoding.attention_mask) - 1] == "<|endoftext|>"
    assert sum(long.attention_mask) == 6
    assert tokenizer.padding["pad_token"] == "<|endoftext|>"


def test_the_sidecar_pad_token_is_used(tower: Callable, tmp_path: Path) -> None:
    own = gpt2_tokenizer(tmp_path)
    own.add_special_tokens(["<pad>"])
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "eos_token": "<|endoftext|>"}))
    tokenizer, _ = tower()
    assert tokenizer.padding["pad_id"] == own.token_to_id("<pad>")


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, "no tokenizer in it"),
        ({"config.json": '{"model_type": "bert"}'}, "no tokenizer in it"),
        ({"vocab.json": "{}", "config.json": '{"model_type": "gpt2"}'}, "no tokenizer in it"),
        ({"vocab.txt": "a\nb\n"}, "transformers cannot read vocab.txt"),
        ({"tokenizer.json": "{"}, "tokenizer.json: not a tokenizer"),
        ({"tokenizer.json": None, "config.json": "{}"}, "names no padding and no end token"),
        ({"tokenizer.json": None, "config.json": "{"}, "config.json: not JSON"),
    ],
)
def test_unusable_folders_say_why(tower: Callable, tmp_path: Path, files: dict[str, str | None], wanted: str) -> None:
    for name, content in files.items():
        if content is None:
            gpt2_tokenizer(tmp_path)
        else:
            (tmp_path / name).write_text(content)
    if wanted.startswith("config.json"):  # already the recipe's own check reads config.json
        with pytest.raises(UsageError, match=r"config\.json is damaged"):
            tower()
        return
    with pytest.raises(CliplineError, match=wanted) as caught:
        tower()
    assert str(tmp_path) in str(caught.value)


def test_missing_folder_is_one_line_with_the_fix(tower: Callable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"text\.weights: .*nowhere: no such folder\. Fix: a local model") as caught:
        tower(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_max_length_must_leave_a_token(tower: Callable, trained: Callable, tmp_path: Path) -> None:
    own = trained("wordpiece")
    from tokenizers.processors import TemplateProcessing

    own.post_processor = TemplateProcessing(
        single="[CLS] [CLS] [CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    own.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match=r"inputs\.max_length \(4\) leaves no token beside the 4 special ones"):
        tower(max_length=4)
