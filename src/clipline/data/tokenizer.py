"""The tokenizer: trained on the training captions, or the text tower's own from a folder or the hub.

Either way the result is one `tokenizers.Tokenizer` that pads and truncates by itself and marks the end of
each text, truncated or not, so that one file is all that training, the exported model and search need.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from clipline.config.base import resolve
from clipline.config.recipe import Inputs
from clipline.config.recipe import Tokenizer as TokenizerSettings
from clipline.config.towers import TextTower
from clipline.errors import CliplineError, UsageError, first_line
from clipline.utils import hub

# BERT's names, and CLIP's with a padding token of its own.
WORDPIECE_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
BPE_SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>"]
_ALPHABET_LIMIT = 1000  # distinct characters that WordPiece keeps, as BERT's own training did
_BATCH = 10_000
_FAST = "tokenizer.json"
# What transformers can convert, and what it needs beside.
_SLOW = {"vocab.txt": (), "vocab.json": ("merges.txt",)}
_NOTES = ["tokenizer_config.json", "special_tokens_map.json", "config.json"]
_FIX = "a local model folder as text.weights, or text.weights: random with a wordpiece or bpe tokenizer"


class Found(NamedTuple):
    """A tokenizer, its padding token, and in words where it comes from."""

    tokenizer: Tokenizer
    pad: str
    source: str


def find(inputs: Inputs, text: TextTower) -> Found | None:
    """The tower's own tokenizer, where the recipe wants it; None where one is to be trained.

    Raises CliplineError where it cannot be had, UsageError where it leaves no room for a text.
    """
    if inputs.tokenizer.kind != "tower":
        return None
    found = _tower(text)
    added = found.tokenizer.num_special_tokens_to_add(is_pair=False)
    if inputs.max_length <= added:
        raise UsageError(f"inputs.max_length ({inputs.max_length}) leaves no token beside the {added} special ones")
    return found


def build(inputs: Inputs, found: Found | None, captions: Sequence[str]) -> tuple[Tokenizer, str]:
    """The tokenizer that was found, or a new one; and in words where it comes from.

    captions: the training captions, and no others: a vocabulary is learned from data like any weight.
    """
    if found is None:
        settings = inputs.tokenizer
        train = _wordpiece if settings.kind == "wordpiece" else _bpe
        tokenizer, pad = train(settings, captions)
        found = Found(tokenizer, pad, f"{settings.kind} trained on {len(captions):,} training captions")
    tokenizer = found.tokenizer
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(found.pad), pad_token=found.pad, direction="right")
    tokenizer.enable_truncation(inputs.max_length, direction="right")
    return tokenizer, found.source


def _wordpiece(settings: TokenizerSettings, captions: Sequence[str]) -> tuple[Tokenizer, str]:
    """BERT's scheme: [CLS] text [SEP]."""
    pad, unknown, start, end = WORDPIECE_SPECIAL
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The library numbers `##x` pieces in the order of a randomly seeded hash table, and breaks ties between
    # merges by number: the vocabulary would differ from run to run. Given as special tokens they have fixed
    # numbers; they are no special tokens of the tokenizer made from the vocabulary below.
    letters = _alphabet(tokenizer, captions, min(_ALPHABET_LIMIT, (settings.vocab_size - 4) // 2))
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[*WORDPIECE_SPECIAL, *(f"##{letter}" for letter in letters)],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer, length=len(captions))
    trained = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=unknown))
    trained.normalizer, trained.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trained.decoder = decoders.WordPiece()
    trained.add_special_tokens(WORDPIECE_SPECIAL)
    _frame(trained, start, end)
    return trained, pad


def _alphabet(tokenizer: Tokenizer, captions: Sequence[str], limit: int) -> list[str]:
    """The `limit` most frequent characters, in a fixed order."""
    counts: Counter[str] = Counter()
    for caption in captions:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(caption)):
            counts.update(word)
    return sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:limit])


def _bpe(settings: TokenizerSettings, captions: Sequence[str]) -> tuple[Tokenizer, str]:
    """Byte-level BPE as GPT-2 and CLIP: any text has tokens, so there is no unknown one."""
    pad, start, end = BPE_SPECIAL
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE())
    lowercase = [normalizers.Lowercase()] if settings.lowercase else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *lowercase])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=BPE_SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer, length=len(captions))
    _frame(tokenizer, start, end)
    return tokenizer, pad


def _frame(tokenizer: Tokenizer, start: str | None, end: str) -> None:
    tokens = [token for token in (start, end) if token]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}" if start else f"$A {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in tokens],
    )


# ---------------------------------------------------------------- the tower's own


def _tower(text: TextTower) -> Found:
    if text.weights == "hub":
        beside = [file for files in _SLOW.values() for file in files]
        folder = hub.fetch(text.name, [_FAST, *_SLOW], [*beside, *_NOTES], "text.name", _FIX)
        source = f"hub: {text.name}"
    else:
        folder, source = resolve(text.weights), f"folder: {text.weights}"
        if not folder.is_dir():
            raise UsageError(f"text.weights: {folder}: no such folder. Fix: {_FIX}")
    with tempfile.TemporaryDirectory() as scratch:
        path = folder if (folder / _FAST).is_file() else _converted(folder, Path(scratch))
        tokenizer = _load(path / _FAST)
        notes = [_json(place / name) for place in (folder, path) for name in _NOTES]
    pad, end = _special(tokenizer, notes, "pad"), _special(tokenizer, notes, "eos")
    if tokenizer.num_special_tokens_to_add(is_pair=False) == 0 and end:
        # GPT-2's marks no end, and `eot` pooling reads the last token: give it one that means so.
        _frame(tokenizer, None, end)
    if not (pad or end):
        raise CliplineError(f"text.weights: {folder}: its tokenizer names no padding and no end token")
    return Found(tokenizer, pad or end, source)


def _load(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise CliplineError(f"{path}: not a tokenizer that `tokenizers` can read: {error}") from None


def _converted(folder: Path, scratch: Path) -> Path:
    """A folder with only vocab.txt and the like -> one with tokenizer.json, by way of transformers."""
    # Checked first: transformers makes an empty tokenizer, without a word, where the vocabulary is missing.
    found = [file for file, beside in _SLOW.items() if all((folder / name).is_file() for name in (file, *beside))]
    if not found:
        raise CliplineError(
            f"text.weights: {folder}: no tokenizer in it ({_FAST}, vocab.txt or vocab.json + merges.txt)"
        )
    from transformers import AutoTokenizer

    try:
        # Asked for nothing, it would ask at the terminal whether to run the folder's own code.
        slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        slow.save_pretrained(scratch)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = first_line(error)
        raise CliplineError(f"text.weights: {folder}: transformers cannot read {found[0]}: {reason}") from None
    if not (scratch / _FAST).is_file():
        raise CliplineError(f"text.weights: {folder}: its tokenizer has no fast form (tokenizer.json)")
    return scratch


def _json(path: Path) -> dict:
    """A JSON object that may be missing."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise CliplineError(f"{path}: not JSON: {error}") from None


def _special(tokenizer: Tokenizer, notes: list[dict], kind: str) -> str | None:
    """The padding (`pad`) or end (`eos`) token: the tokenizer's own word for it, else its sidecar files'."""
    if kind == "pad" and tokenizer.padding:
        return tokenizer.padding["pad_token"]
    for note in notes:
        token = note.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is None and isinstance(note.get(f"{kind}_token_id"), int):
            token = tokenizer.id_to_token(note[f"{kind}_token_id"])
        if token is not None and tokenizer.token_to_id(token) is not None:
            return token
    return None


# ---------------------------------------------------------------- use


@dataclass(frozen=True)
class Encoded:
    """C captions as tokens: int32 [C, max_length], padded with the tokenizer's pad id.

    lengths: int32 [C], real tokens in each row. full: int32 [C], what they would be without truncation.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    full: np.ndarray


def encode(tokenizer: Tokenizer, captions: Sequence[str]) -> Encoded:
    """Captions -> tokens, by a tokenizer that `build` made."""
    free = Tokenizer.from_str(tokenizer.to_str())
    free.no_padding()
    free.no_truncation()
    shape = (len(captions), tokenizer.truncation["max_length"])
    tokens = np.full(shape, tokenizer.padding["pad_id"], dtype=np.int32)
    lengths, full = np.zeros((2, len(captions)), dtype=np.int32)
    for start in range(0, len(captions), _BATCH):
        batch = list(captions[start : start + _BATCH])
        full[start : start + len(batch)] = [len(encoding) for encoding in free.encode_batch(batch)]
        for row, encoding in enumerate(tokenizer.encode_batch(batch), start=start):
            ids = encoding.ids[: sum(encoding.attention_mask)]
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
    return Encoded(tokens, lengths, full)
