"""Captions changed as tokens, a batch at a time: some left out, some swapped for others that mean the same."""

from __future__ import annotations

import json
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from clipline.errors import UsageError
from clipline.train.distributed.gather import rank
from clipline.utils.progress import note

# What a space before a token has become in it: in byte-level BPE, and in SentencePiece.
SPACES = ("\u0120", "\u2581")
# Words that a warning names.
NAMED = 20


def drop_tokens(ids_TL: Tensor, mask_TL: Tensor, drop_TL: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Leave out tokens: ids and mask int64 [T, L], drop bool [T, L] -> ids and mask of what is left, same shapes.

    The first and the last token of each text stay (start and end, where the tokenizer has them), so that none is
    empty. The others close up to the left; `pad` stands behind. Source: word dropout, Iyyer et al., "Deep Unordered
    Composition Rivals Syntactic Methods for Text Classification", ACL 2015, section 4.
    """
    place_L = torch.arange(ids_TL.shape[1], device=ids_TL.device)
    last_T1 = mask_TL.sum(dim=1, keepdim=True) - 1
    keep_TL = ((place_L == 0) | (place_L == last_T1) | ~drop_TL) & (place_L <= last_T1)
    # False sorts before True, and a stable sort keeps the words' order.
    order_TL = (~keep_TL).sort(dim=1, stable=True).indices
    kept_TL = place_L < keep_TL.sum(dim=1, keepdim=True)
    return ids_TL.gather(1, order_TL).where(kept_TL, pad), kept_TL.to(mask_TL.dtype)


# ---------------------------------------------------------------- synonyms


class Swaps(NamedTuple):
    """What each of V tokens may become; on one device.

    others_VK: int64, in its first places the other tokens of the token's group; count_V: int64, how many they are.
    Together with its neighbours a token may be a longer word (`kid ##ding`), which must stay. open_V: bool, tokens
    that the next one goes on with; continues_V: bool, tokens that go on with the one before.
    """

    others_VK: Tensor
    count_V: Tensor
    open_V: Tensor
    continues_V: Tensor

    def to(self, device: torch.device) -> Swaps:
        """The same on `device`."""
        return Swaps(*(each.to(device) for each in self))


def swap_tokens(ids_TL: Tensor, chance_TL: Tensor, swaps: Swaps) -> Tensor:
    """Swap words for synonyms: ids int64 [T, L] -> int64 [T, L].

    chance_TL: float32, 0 and above. A token is swapped where it is below 1, and it then is what chooses among the
    others: uniform from 0 to 1. Source: synonym replacement, Wei and Zou, arXiv 1901.11196.
    """
    part_of_last_TL = F.pad(swaps.open_V[ids_TL][:, :-1], (1, 0))
    part_of_next_TL = F.pad(swaps.continues_V[ids_TL][:, 1:], (0, 1))
    count_TL = swaps.count_V[ids_TL]
    swap_TL = (chance_TL < 1) & (count_TL > 0) & ~part_of_last_TL & ~part_of_next_TL
    choice_TL = torch.minimum((chance_TL.clamp(max=1) * count_TL).long(), (count_TL - 1).clamp(min=0))
    return swaps.others_VK[ids_TL, choice_TL].where(swap_TL, ids_TL)


def swap_table(groups: list[list[str]], tokenizer: Tokenizer) -> Swaps:
    """What tokens of `tokenizer` may become where any word of a group may stand for any other of it; on the CPU.

    Words that are not one token between other words are named in a warning. Raises UsageError where no group has two
    others, or a token is a word of two groups.
    """
    free = Tokenizer.from_str(tokenizer.to_str())
    free.no_padding()
    free.no_truncation()
    spec = json.loads(free.to_str())
    special = _special(spec)
    found = [{word: token for word in group if (token := _token(free, word)) not in special} for group in groups]
    _tell([word for group in groups for word in group], set().union(*found))
    members = [sorted(set(words.values())) for words in found]
    _check(members, free)
    size = max(free.get_vocab().values()) + 1
    others_VK = torch.zeros(size, max(len(group) for group in members) - 1, dtype=torch.int64)
    count_V = torch.zeros(size, dtype=torch.int64)
    for group in members:
        for token in group:
            rest = torch.tensor([other for other in group if other != token], dtype=torch.int64)
            others_VK[token, : len(rest)], count_V[token] = rest, len(rest)
    return Swaps(others_VK, count_V, *_joints(spec, free.get_vocab(), special, size))


def _token(tokenizer: Tokenizer, word: str) -> int | None:
    """The one token that `word` is between other words, or None."""
    before = "a "
    encoding = tokenizer.encode(f"{before}{word} a", add_special_tokens=False)
    start, end = len(before), len(before) + len(word)
    # A token may count the space before it as its own.
    own = [token for token, (a, b) in zip(encoding.ids, encoding.offsets, strict=True) if a < end and b > start]
    return own[0] if len(own) == 1 else None


def _special(spec: dict) -> set[int | None]:
    """Tokens that are no words: those that the tokenizer calls special, and what it makes of unknown words."""
    model = spec["model"]
    vocab = model["vocab"] if isinstance(model["vocab"], dict) else {}
    named = {token["id"] for token in spec["added_tokens"] if token["special"]}
    return named | {None, vocab.get(model.get("unk_token")), model.get("unk_id")}


def _joints(spec: dict, vocab: dict[str, int], special: set[int | None], size: int) -> tuple[Tensor, Tensor]:
    """open_V and continues_V of Swaps, by how the tokenizer's model writes that a word goes on."""
    prefix, suffix = (spec["model"].get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
    spaces = any(token.startswith(SPACES) for token in vocab)
    open_V, continues_V = torch.zeros(2, size, dtype=torch.bool)
    for token, index in vocab.items():
        if index in special:
            continue
        if suffix:  # CLIP: `kid</w>` ends a word
            open_V[index] = not token.endswith(suffix)
        elif prefix:  # WordPiece: `##ding` goes on
            continues_V[index] = token.startswith(prefix)
        elif spaces:  # GPT-2: `\u0120kid` begins a word; full stops and the like are words of their own
            continues_V[index] = not token.startswith(SPACES) and token[:1].isalpha()
    return open_V, continues_V


def _tell(words: list[str], usable: set[str]) -> None:
    """One line on what cannot be swapped, from the first of several processes."""
    left = [word for word in words if word not in usable]
    if left and not rank():
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        note(
            f"train.augment.synonyms: {len(left)} of {len(words)} words are not one token of the tokenizer and stay "
            f"as they are: {', '.join(left[:NAMED])}{more}"
        )


def _check(members: list[list[int]], tokenizer: Tokenizer) -> None:
    tokens = [token for group in members for token in group]
    twice = sorted({tokenizer.id_to_token(token) for token in tokens if tokens.count(token) > 1})
    if twice:
        raise UsageError(
            f"train.augment.synonyms.groups: one token in several groups: {', '.join(twice)} (the tokenizer makes some "
            f"words alike). Fix: join these groups, or leave a word out"
        )
    if max(map(len, members)) < 2:
        raise UsageError(
            "train.augment.synonyms.groups: no group has two words that are one token each of the recipe's tokenizer. "
            "Fix: common words as captions spell them, a larger inputs.tokenizer.vocab_size, or no synonyms"
        )
