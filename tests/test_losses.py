"""The losses against their sources, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipline.config.recipe import InfoNCELoss, SoftTargetLoss
from clipline.losses import build_loss, infonce, soft_target

B, D = 6, 4


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(B, D, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))


def test_infonce_is_minus_log_softmax_of_the_pair(pair):
    image, text = pair
    scale = torch.tensor(3.0, dtype=torch.float64)
    logits = scale * image @ text.T
    rows = -torch.stack([logits[i, i] - torch.logsumexp(logits[i], 0) for i in range(B)]).mean()
    columns = -torch.stack([logits[i, i] - torch.logsumexp(logits[:, i], 0) for i in range(B)]).mean()
    assert infonce(image, text, scale).item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-12)


def test_infonce_of_a_perfect_and_of_a_blind_model():
    eye, scale = torch.eye(B), torch.tensor(100.0)
    assert infonce(eye, eye, scale).item() == pytest.approx(0, abs=1e-6)
    same = torch.ones(B, D)
    assert infonce(same, same, scale).item() == pytest.approx(math.log(B), rel=1e-5)


def moein(image, text, temperature):
    """moein-shariatnia/OpenAI-CLIP's CLIPModel.forward, from its description."""
    logits = text @ image.T / temperature
    targets = F.softmax((image @ image.T + text @ text.T) / 2 * temperature, dim=-1)

    def cross_entropy(predictions, wanted):
        return (-wanted * F.log_softmax(predictions, dim=-1)).sum(1)

    return ((cross_entropy(logits, targets) + cross_entropy(logits.T, targets.T)) / 2).mean()


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_soft_target_equals_its_source(pair, tau):
    scale = torch.tensor(1 / tau, dtype=torch.float64)
    assert soft_target(*pair, scale).item() == pytest.approx(moein(*pair, tau).item(), rel=1e-10)


def test_target_scale_is_the_same_at_one_and_differs_elsewhere(pair):
    one, half = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    assert soft_target(*pair, one, target_scale="divide") == soft_target(*pair, one, target_scale="multiply")
    assert soft_target(*pair, half, target_scale="divide") != soft_target(*pair, half, target_scale="multiply")


def test_detached_targets_change_the_gradient_and_not_the_loss(pair):
    scale = torch.tensor(1.0, dtype=torch.float64)
    live, detached = soft_target(*pair, scale), soft_target(*pair, scale, detach_targets=True)
    assert live == detached
    gradients = [torch.autograd.grad(loss, pair[0], retain_graph=True)[0] for loss in (live, detached)]
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize(
    "config",
    [
        InfoNCELoss(kind="infonce", label_smoothing=0.1),
        SoftTargetLoss(kind="soft_target", target_scale="divide"),
    ],
)
def test_recipes_options_reach_the_loss_and_gradients_are_right(config, pair):
    loss = build_loss(config)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    plain = {"infonce": infonce, "soft_target": soft_target}[config.kind]
    assert loss(*pair, scale) != plain(*pair, scale)
    assert torch.autograd.gradcheck(loss, (*pair, scale))
