"""Averages of weights against their formulas."""

import pytest
import torch
from torch import nn

from clipline.train.average import Average, applied, interpolated


@pytest.fixture
def parameters():
    return {"a": nn.Parameter(torch.tensor([1.0, 2.0])), "b": nn.Parameter(torch.tensor(5.0))}


def test_older_steps_are_weighted_by_the_decay(parameters):
    average, expected = Average(parameters, 0.6), torch.tensor([1.0, 2.0])
    for step in range(1, 12):
        with torch.no_grad():
            parameters["a"] += step
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameters["a"].detach()
    assert torch.allclose(average.weights["a"], expected)
    assert average.weights["b"] == 5


def test_interpolation_between_the_first_and_the_last(parameters):
    start = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor(1.0)}
    between = interpolated(start, parameters, 0.25)
    assert torch.allclose(between["a"], torch.tensor([0.25, 0.5]))
    assert between["b"] == 2
    assert not between["a"].requires_grad


def test_weights_are_restored_after_the_block_even_after_an_error(parameters):
    before = {name: param.detach().clone() for name, param in parameters.items()}
    with pytest.raises(RuntimeError), applied({"a": torch.zeros(2), "b": torch.tensor(0.0)}, parameters):
        assert not parameters["a"].any()
        raise RuntimeError
    assert all(torch.equal(parameters[name], before[name]) for name in before)
