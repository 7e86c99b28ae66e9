"""A compiled step learns the same, and is compiled once."""

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from clipline.data.prepared import Prepared
from clipline.errors import UsageError
from clipline.train.loop import Trainer
from clipline.train.towers import compiled

CPU = torch.device("cpu")
# 60 images: the last batch of an epoch is a short one.
PLAIN = {"train.epochs": 3, "train.batch_size": 25, "train.captions": "random"}


@pytest.fixture
def backend() -> str:
    """A backend that traces and differentiates, but does not compile. tests/train/inductor uses the real one."""
    return "aot_eager"


@pytest.fixture
def fit(make_recipe, prepared, tmp_path, no_dropout, backend, monkeypatch):
    """fit(changes) -> the rows of a training, and after each how many graphs had been compiled."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))

    def run(changes: dict) -> tuple[list[dict], list[int]]:
        torch._dynamo.reset()
        counters.clear()
        rows, graphs = [], []
        recipe = make_recipe(PLAIN | no_dropout | changes)
        made = Trainer(recipe, Prepared(prepared), seed=0, device=CPU, cache=tmp_path)
        made.fit(lambda row, when: (rows.append(row), graphs.append(counters["stats"]["unique_graphs"])))
        return rows, graphs

    return run


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"kind": "multi_positive"}, "train.captions_per_image": 2, "image.pool": "avg"},
        {"train.micro_batch_size": 10},
    ],
    ids=["multi_positive", "micro batches"],
)
def test_the_same_is_learned_and_nothing_compiled_after_the_first_epoch(fit, changes):
    plain, none = fit(changes)
    fast, graphs = fit(changes | {"train.compile": True})
    for name in ("train_loss", "val_loss", "temperature"):
        assert [row[name] for row in fast] == pytest.approx([row[name] for row in plain], rel=1e-3)
    assert none == [0, 0, 0]
    assert graphs[0] > 0
    assert graphs[2] == graphs[1] == graphs[0]


def test_cuda_graphs_need_cuda(make_recipe):
    config = make_recipe({"train.compile": "cuda_graphs"}).train
    with pytest.raises(UsageError, match=r"train\.compile: cuda_graphs needs CUDA, and this training is on the cpu"):
        compiled(torch.sin, config, CPU)


def test_other_values_of_compile_are_errors(make_recipe):
    with pytest.raises(UsageError, match=r"train\.compile"):
        make_recipe({"train.compile": "faster"})
