"""What training does with a batch on its way through the towers."""

import torch

from clipline.data.prepared import Prepared
from clipline.model.clip import build_model
from clipline.train import towers as module
from clipline.train.towers import Towers

CPU = torch.device("cpu")


def test_captions_of_like_length_go_together(make_recipe, prepared, monkeypatch):
    data, recipe = Prepared(prepared), make_recipe({})
    model = build_model(recipe, data.vocab_size).eval()
    split = data.split("train")
    longest = int(split.lengths.max())
    ids = torch.from_numpy(split.tokens[:, :longest]).long()
    mask = (torch.arange(longest) < torch.from_numpy(split.lengths)[:, None]).long()
    with torch.no_grad():
        whole = model.text_head(model.text_tower(ids, mask))
        shapes = []
        model.text_tower.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
        monkeypatch.setattr(module, "PIECE", 7)
        found = Towers(model, recipe.train, CPU).text((ids, mask))
    torch.testing.assert_close(found, whole)
    assert sum(rows for rows, _ in shapes) == len(ids)
    # Each piece is as long as its longest caption, and they come from short to long.
    assert [length for _, length in shapes] == split_lengths(split.lengths, 7)
    assert shapes[0][1] < shapes[-1][1] == longest


def split_lengths(lengths, size):
    ordered = sorted(lengths.tolist())
    return [max(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def test_convolutions_have_their_weights_as_the_pixels_come(make_recipe, prepared):
    recipe = make_recipe({})
    model = build_model(recipe, Prepared(prepared).vocab_size)
    Towers(model, recipe.train, CPU)
    images = [each for each in model.image_tower.parameters() if each.ndim == 4]
    assert images and all(each.is_contiguous(memory_format=torch.channels_last) for each in images)
