"""The tokenizer: trained on the training captions, or the text tower's own one from a folder or the hub.

Either way the result is one `tokenizers.Tokenizer` that pads and truncates by itself and marks the end of each text,
truncated or not, so that one file (tokenizer.json) is all that training, the exported model and search need.

Another tokenizer is another model: data/prepared gets another fingerprint, the text tower must be trained again, and
the exported model gets another `model_id`, by which `clipline search` refuses embeddings made before.
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

# BERT's names; CLIP's names, with a padding token in addition.
WORDPIECE_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
BPE_SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>"]
_ALPHABET_LIMIT = 1000  # distinct characters that WordPiece keeps, as BERT's own training did
_BATCH = 10_000
_FAST = "tokenizer.json"
# Vocabulary files that transformers can convert, and the files that each of them needs beside it.
_SLOW = {"vocab.txt": (), "vocab.json": ("merges.txt",)}
_NOTES = ["tokenizer_config.json", "special_tokens_map.json", "config.json"]
_FIX = "a local model folder as text.weights, or text.weights: random with a wordpiece or bpe tokenizer"


class TowerTokenizer(NamedTuple):
    """The tokenizer of a pretrained text tower, its padding token, and in words where it comes from."""

    tokenizer: Tokenizer
    pad: str
    source: str


def find(inputs: Inputs, text: TextTower) -> TowerTokenizer | None:
    """Load the text tower's own tokenizer if the recipe asks for it; None if one is to be trained.

    Raises CliplineError where it is not available, UsageError where it leaves no room for a text.
    """
    if inputs.tokenizer.kind != "tower":
        return None
    tower = _load_tower(text)
    added = tower.tokenizer.num_special_tokens_to_add(is_pair=False)
    if inputs.max_length <= added:
        raise UsageError(f"inputs.max_length ({inputs.max_length}) leaves no token beside the {added} special ones")
    return tower


def build(inputs: Inputs, tower: TowerTokenizer | None, captions: Sequence[str]) -> tuple[Tokenizer, str]:
    """Return the tower's tokenizer, or train a new one; and in words where it comes from.

    captions: the training captions only, since a vocabulary is learned from data like any weight.
    """
    if tower is not None:
        tokenizer, pad, source = tower
    else:
        settings = inputs.tokenizer
        train = _wordpiece if settings.kind == "wordpiece" else _bpe
        tokenizer, pad = train(settings, captions)
        source = f"{settings.kind} trained on {len(captions):,} training captions"
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad, direction="right")
    tokenizer.enable_truncation(inputs.max_length, direction="right")
    return tokenizer, source


def _wordpiece(settings: TokenizerSettings, captions: Sequence[str]) -> tuple[Tokenizer, str]:
    """Train WordPiece as BERT uses it: [CLS] text [SEP]. Returns the tokenizer and its padding token."""
    pad, unknown, start, end = WORDPIECE_SPECIAL
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The library numbers `##x` pieces in the order of a randomly seeded hash table, and breaks ties between merges by
    # number: the vocabulary would differ from run to run. As special tokens of the training they have fixed numbers;
    # in the tokenizer that is made from the vocabulary below they are ordinary tokens.
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
    """The `limit` most frequent characters of the captions, in a fixed order."""
    counts: Counter[str] = Counter()
    for caption in captions:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(caption)):
            counts.update(word)
    return sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:limit])


def _bpe(settings: TokenizerSettings, captions: Sequence[str]) -> tuple[Tokenizer, str]:
    """Train byte-level BPE as in GPT-2 and CLIP: any text has tokens. Returns the tokenizer and its padding token."""
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


# ---------------------------------------------------------------- the tower's own tokenizer


def _load_tower(text: TextTower) -> TowerTokenizer:
    if text.weights == "hub":
        companions = [file for files in _SLOW.values() for file in files]
        folder = hub.fetch(text.name, [_FAST, *_SLOW], [*companions, *_NOTES], "text.name", _FIX)
        source = f"hub: {text.name}"
    else:
        folder, source = resolve(text.weights), f"folder: {text.weights}"
        if not folder.is_dir():
            raise UsageError(f"text.weights: {folder}: no such folder. Fix: {_FIX}")
    with tempfile.TemporaryDirectory() as scratch:
        path = folder if (folder / _FAST).is_file() else _converted(folder, Path(scratch))
        tokenizer = _load(path / _FAST)
        notes = [_json(parent / name) for parent in (folder, path) for name in _NOTES]
    pad, end = _special(tokenizer, notes, "pad"), _special(tokenizer, notes, "eos")
    if tokenizer.num_special_tokens_to_add(is_pair=False) == 0 and end:
        # GPT-2's tokenizer marks no end, but `eot` pooling reads the last token, so an end token is added.
        _frame(tokenizer, None, end)
    if not (pad or end):
        raise CliplineError(f"text.weights: {folder}: its tokenizer names no padding and no end token")
    return TowerTokenizer(tokenizer, pad or end, source)


def _load(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise CliplineError(f"{path}: not a tokenizer that `tokenizers` can read: {first_line(error)}") from None


def _converted(folder: Path, scratch: Path) -> Path:
    """Let transformers convert a folder that has vocab.txt or the like; returns `scratch`, with tokenizer.json."""
    # Checked here, since transformers silently makes an empty tokenizer where the vocabulary is missing.
    usable = [file for file, others in _SLOW.items() if all((folder / name).is_file() for name in (file, *others))]
    if not usable:
        raise CliplineError(
            f"text.weights: {folder}: no tokenizer in it ({_FAST}, vocab.txt or vocab.json + merges.txt)"
        )
    from transformers import AutoTokenizer

    try:
        # Without trust_remote_code it would ask at the terminal whether to run code from the folder.
        slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        slow.save_pretrained(scratch)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = first_line(error)
        raise CliplineError(f"text.weights: {folder}: transformers cannot read {usable[0]}: {reason}") from None
    if not (scratch / _FAST).is_file():
        raise CliplineError(f"text.weights: {folder}: its tokenizer has no fast form (tokenizer.json)")
    return scratch


def _json(path: Path) -> dict:
    """Read a JSON object; {} where the file is missing."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise CliplineError(f"{path}: not JSON: {error}") from None


def _special(tokenizer: Tokenizer, notes: list[dict], kind: str) -> str | None:
    """The padding (`pad`) or end (`eos`) token, as the tokenizer itself names it, else as the files beside it do."""
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

    lengths: int32 [C], how many tokens of each row are not padding. full: int32 [C], the same without truncation.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    full: np.ndarray


def encode(tokenizer: Tokenizer, captions: Sequence[str]) -> Encoded:
    """Encode captions with a tokenizer that `build` made."""
    untruncated = Tokenizer.from_str(tokenizer.to_str())
    untruncated.no_padding()
    untruncated.no_truncation()
    shape = (len(captions), tokenizer.truncation["max_length"])
    tokens = np.full(shape, tokenizer.padding["pad_id"], dtype=np.int32)
    lengths, full = np.zeros((2, len(captions)), dtype=np.int32)
    for start in range(0, len(captions), _BATCH):
        batch = list(captions[start : start + _BATCH])
        full[start : start + len(batch)] = [len(encoding) for encoding in untruncated.encode_batch(batch)]
        for row, encoding in enumerate(tokenizer.encode_batch(batch), start=start):
            ids = encoding.ids[: sum(encoding.attention_mask)]
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
    return Encoded(tokens, lengths, full)
