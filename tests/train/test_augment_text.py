"""Captions with tokens left out or swapped for synonyms, by tokenizers of each kind."""

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers

from clipline.config.augment import Augment
from clipline.config.base import validate
from clipline.config.recipe import Inputs
from clipline.config.recipe import Tokenizer as TokenizerSettings
from clipline.data.prepared import Prepared, Split
from clipline.data.tokenizer import build, encode
from clipline.errors import UsageError
from clipline.train.augment import Augmentation
from clipline.train.augment_text import drop_tokens, swap_table, swap_tokens

GROUPS = [["child", "kid", "youngster"], ["dog", "hound", "zebra"]]
WORDS = [
    "a child runs .",
    "the kid and the youngster , the child",
    "a youngster's dog and a kid's hound",
    "the wing of the zoo is a dog",
]
# Of the letters of those, but as words unknown to tokenizers of those alone.
STRANGE = "the kidding whizkid is a childe"


pytestmark = pytest.mark.usefixtures("one_thread")


def trained(kind):
    """A tokenizer that knows the words of WORDS, made as the pipeline makes it, or as CLIP's own is."""
    if kind in {"wordpiece", "bpe"}:
        settings = TokenizerSettings(kind=kind, vocab_size={"wordpiece": 110, "bpe": 330}[kind])
        inputs = Inputs(image_size=32, resize="shortest", max_length=24, tokenizer=settings)
        return build(inputs, None, WORDS * 20)[0]
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"'s|[a-z]+|[^\sa-z]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A {special[1]}", special_tokens=[(token, n) for n, token in enumerate(special)]
    )
    tokenizer.enable_padding(pad_id=1, pad_token=special[1])
    tokenizer.enable_truncation(24)
    return tokenizer


@pytest.fixture(params=["wordpiece", "bpe", "clip"])
def tokenizer(request):
    return trained(request.param)


def split_of(tokenizer, captions):
    """A split of an image for each caption."""
    encoded, count = encode(tokenizer, captions), len(captions)
    return Split(
        name="train",
        images=np.zeros((count, 8, 8, 3), np.uint8),
        image_rows=np.arange(count),
        image_names=[f"{index}.png" for index in range(count)],
        tokens=encoded.tokens,
        lengths=encoded.lengths,
        captions=captions,
        caption_image=np.arange(count),
    )


def inputs_of(split):
    ids = torch.from_numpy(split.tokens).long()
    return ids, (torch.arange(ids.shape[1]) < torch.from_numpy(split.lengths)[:, None]).long()


def settings(probability=1.0, **more):
    values = {"synonyms": {"groups": GROUPS, "probability": probability}, **more}
    return validate(Augment, values, "train.augment")


def words(tokenizer, row):
    """Tokens of a row as their words' letters; what only marks a space or a word's end is left out."""
    return [tokenizer.id_to_token(token).replace("\u0120", "").replace("</w>", "") for token in row.tolist()]


# ---------------------------------------------------------------- synonyms


def test_words_become_others_of_their_group_and_nothing_else_changes(tokenizer):
    split = split_of(tokenizer, WORDS)
    ids, mask = inputs_of(split)
    augmentation = Augmentation(settings(), split, 0, tokenizer)
    seen = set()
    for _ in range(20):
        found, kept = augmentation.texts((ids, mask))
        assert kept is mask and found.dtype == torch.int64 and found.shape == ids.shape
        for before, after in zip(ids, found, strict=True):
            for one, other in zip(words(tokenizer, before), words(tokenizer, after), strict=True):
                group = next((group for group in GROUPS if one in group), None)
                assert (one == other) == (group is None), f"{one} became {other}"
                assert group is None or other in group
                seen.add((one, other))
    swapped = {(one, other) for one, other in seen if one != other}
    # Each way, but never to or from a word that these captions and so the tokenizer lack.
    assert len(swapped) == 6 + 2 and not any("zebra" in pair for pair in swapped)


def test_parts_of_longer_words_stay(tokenizer):
    pieces = words(tokenizer, torch.tensor(tokenizer.encode(STRANGE).ids))
    assert "kidding" not in pieces and "whizkid" not in pieces and "childe" not in pieces
    split = split_of(tokenizer, [STRANGE, "a kid"])
    found, _ = Augmentation(settings(), split, 0, tokenizer).texts(inputs_of(split))
    assert found[0].tolist() == split.tokens[0].tolist()
    assert {"child", "youngster"} & set(words(tokenizer, found[1]))


def test_what_the_first_token_of_a_word_alone_would_be():
    """The test above is one of the joints: without them these very tokenizers' pieces would be swapped."""
    for kind in ("wordpiece", "bpe"):
        tokenizer = trained(kind)
        swaps = swap_table(GROUPS, tokenizer)
        joined = swaps._replace(continues_V=torch.zeros_like(swaps.continues_V))
        ids = torch.tensor([tokenizer.encode(STRANGE).ids])
        sure = torch.zeros(ids.shape)
        assert torch.equal(swap_tokens(ids, sure, swaps), ids)
        assert not torch.equal(swap_tokens(ids, sure, joined), ids)


def test_the_share_that_is_swapped_and_each_word_alike():
    tokenizer = trained("wordpiece")
    split = split_of(tokenizer, ["a kid and a kid and a kid"] * 2000)
    ids, mask = inputs_of(split)
    kid, child, youngster = (tokenizer.token_to_id(word) for word in ("kid", "child", "youngster"))
    found = Augmentation(settings(0.2), split, 0, tokenizer).texts((ids, mask))[0][ids == kid]
    assert len(found) == 6000
    assert (found == child).float().mean() == pytest.approx(0.1, abs=0.01)
    assert (found == youngster).float().mean() == pytest.approx(0.1, abs=0.01)
    assert (found == kid).float().mean() == pytest.approx(0.8, abs=0.02)


def test_swaps_are_the_same_however_many_processes_share_a_batch_and_after_a_restart(tokenizer):
    split = split_of(tokenizer, WORDS * 8)
    ids, mask = inputs_of(split)
    config = settings(0.5, word_dropout=0.3)
    whole, part, late = (Augmentation(config, split, seed, tokenizer) for seed in (3, 3, 4))
    late.generator.set_state(whole.generator.get_state())
    expected, kept = whole.texts((ids, mask))
    found = part.texts((ids[20:], mask[20:]), first=20, total=32)
    assert torch.equal(found[0], expected[20:]) and torch.equal(found[1], kept[20:])
    assert torch.equal(part.generator.get_state(), whole.generator.get_state())
    assert torch.equal(late.texts((ids, mask))[0], expected)
    assert not torch.equal(whole.texts((ids, mask))[0], expected)


def test_without_synonyms_the_same_is_drawn_as_ever():
    tokenizer = trained("wordpiece")
    split = split_of(tokenizer, WORDS * 8)
    ids, mask = inputs_of(split)
    config = validate(Augment, {"word_dropout": 0.3}, "train.augment")
    found, kept = Augmentation(config, split, 5, tokenizer).texts((ids, mask))
    draws = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5))
    expected = drop_tokens(ids, mask, draws < 0.3, tokenizer.token_to_id("[PAD]"))
    assert torch.equal(found, expected[0]) and torch.equal(kept, expected[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_swaps_alike(tokenizer):
    split = split_of(tokenizer, WORDS * 50)
    cpu, gpu = (Augmentation(settings(0.37), split, 5, tokenizer) for _ in range(2))
    inputs = inputs_of(split)
    for _ in range(3):
        found = gpu.texts(tuple(each.cuda() for each in inputs))
        assert found[0].is_cuda and torch.equal(found[0].cpu(), cpu.texts(inputs)[0])


def test_words_of_several_tokens_are_named_in_one_line(tokenizer, capfd):
    groups = [["child", "kid", "small person", "whizkid"], ["dog", "zebra"]]
    swap_table(groups, tokenizer)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "3 of 6 words" in said[0] and said[0].endswith("small person, whizkid, zebra")
    swap_table([["child", "kid"]], tokenizer)
    assert capfd.readouterr().err == ""


def test_no_usable_word_is_an_error(tokenizer):
    with pytest.raises(UsageError, match=r"synonyms\.groups: no group has two words that are one token") as caught:
        swap_table([["child", "whizkid"], ["zebra", "wildebeest"]], tokenizer)
    assert "Fix: " in str(caught.value)


def test_words_that_a_tokenizer_makes_alike_stand_in_one_group():
    with pytest.raises(UsageError, match="one token in several groups: kid"):
        swap_table([["child", "kid"], ["dog", "Kid"]], trained("wordpiece"))
    count = swap_table([["child", "kid", "Kid"]], trained("wordpiece")).count_V
    assert count.max() == 1  # the two of them are one word


def test_special_and_unknown_tokens_are_no_words():
    with pytest.raises(UsageError, match="no group has two words"):
        swap_table([["kid", "[SEP]", "\u4eba"]], trained("wordpiece"))


def test_synonyms_without_a_tokenizer_are_no_silent_nothing():
    split = split_of(trained("wordpiece"), WORDS)
    with pytest.raises(ValueError, match="tokenizer"):
        Augmentation(settings(), split, 0).texts(inputs_of(split))


def test_a_frozen_text_tower_refuses_synonyms(make_recipe):
    with pytest.raises(UsageError, match=r"train\.augment\.synonyms: the features of a frozen text tower"):
        make_recipe({"text.trainable": False, "train.augment": {"synonyms": {"groups": GROUPS}}})
    assert make_recipe({"train.augment": {"synonyms": {"groups": GROUPS}}}).train.augment.synonyms.probability == 0.1


# ---------------------------------------------------------------- words left out


def test_tokens_close_up_between_their_first_and_last():
    ids = torch.tensor([[1, 11, 12, 13, 2, 0], [1, 21, 2, 0, 0, 0], [1, 31, 32, 33, 34, 2]])
    drop = torch.tensor([[1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    found, mask = drop_tokens(ids, (ids > 0).long(), drop, pad=0)
    assert found.tolist() == [[1, 11, 13, 2, 0, 0], [1, 2, 0, 0, 0, 0], [1, 31, 32, 33, 34, 2]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert found.dtype == mask.dtype == torch.int64


def test_the_towers_see_only_what_is_left(prepared, make_recipe):
    """A caption with dropped tokens embeds as the shorter caption does."""
    from clipline.model.clip import build_model

    data = Prepared(prepared)
    train = data.split("train")
    torch.manual_seed(0)
    model = build_model(make_recipe(), data.vocab_size).eval()
    ids, length = torch.from_numpy(train.tokens[:1]).long(), int(train.lengths[0])
    mask = (torch.arange(ids.shape[1]) < length).long()[None]
    drop = torch.zeros_like(ids).bool()
    drop[0, 2] = True
    short = torch.cat([ids[:, :2], ids[:, 3:length]], dim=1)
    with torch.inference_mode():
        found = model.encode_text(*drop_tokens(ids, mask, drop, pad=0))
        assert torch.allclose(found, model.encode_text(short, torch.ones_like(short)), atol=1e-6)
        assert not torch.allclose(found, model.encode_text(ids, mask), atol=1e-4)
