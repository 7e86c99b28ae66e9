"""The losses against the formulas of their sources."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipline.config.base import validate
from clipline.config.loss import InfoNCELoss, Loss, MultiPositiveLoss, SigLIPLoss, SoftTargetLoss
from clipline.errors import UsageError
from clipline.losses import Batch, build_loss, infonce, multi_positive, siglip, soft_target

B, D = 6, 4
# Seven texts of four images, in no order, and one image with a single text.
IMAGE_IDS, TEXT_IDS = [10, 20, 30, 40], [20, 10, 30, 20, 40, 10, 20]


def number(value, **options):
    return torch.tensor(value, dtype=torch.float64, **options)


def draw(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, D, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def pair():
    return draw(B, 0), draw(B, 1)


@pytest.fixture
def several():
    return draw(len(IMAGE_IDS), 2), draw(len(TEXT_IDS), 3)


def of_pairs(loss, ids=range(B)):
    """`loss` as a function of images, texts, scale and options, in one process."""

    def call(image, text, scale, *rest, **options):
        batch = Batch(image, text, torch.tensor(list(ids)), torch.tensor(list(ids)))
        return loss(batch, batch, scale, *rest, **options)

    return call


def of_several(loss):
    def call(image, text, scale, *rest, **options):
        batch = Batch(image, text, torch.tensor(IMAGE_IDS), torch.tensor(TEXT_IDS))
        return loss(batch, batch, scale, *rest, **options)

    return call


# ---------------------------------------------------------------- infonce


def test_infonce_is_minus_log_softmax_of_the_pair(pair):
    image, text = pair
    scale = number(3.0)
    logits = scale * image @ text.T
    rows = -torch.stack([logits[i, i] - torch.logsumexp(logits[i], 0) for i in range(B)]).mean()
    columns = -torch.stack([logits[i, i] - torch.logsumexp(logits[:, i], 0) for i in range(B)]).mean()
    assert of_pairs(infonce)(image, text, scale).item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-12)


def test_infonce_of_a_perfect_and_of_a_constant_model():
    eye, scale = torch.eye(B), torch.tensor(100.0)
    assert of_pairs(infonce)(eye, eye, scale).item() == pytest.approx(0, abs=1e-6)
    same = torch.ones(B, D)
    assert of_pairs(infonce)(same, same, scale).item() == pytest.approx(math.log(B), rel=1e-5)


def test_label_smoothing_of_infonce_is_a_share_of_the_target_on_every_text(pair):
    image, text = pair
    log_p, log_q = (F.log_softmax(2 * logits, dim=-1) for logits in (image @ text.T, text @ image.T))
    target = 0.9 * torch.eye(B, dtype=torch.float64) + 0.1 / B
    wanted = -((target * log_p).sum() + (target * log_q).sum()) / (2 * B)
    actual = of_pairs(infonce)(image, text, number(2.0), label_smoothing=0.1)
    assert actual.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_without_hard_negatives_the_same_image_twice_is_its_own_negative_as_in_clip(pair):
    ids = [0, 1, 1, 2, 3, 4]
    assert of_pairs(infonce, ids)(*pair, number(1.0)) == of_pairs(infonce)(*pair, number(1.0))


# ---------------------------------------------------------------- soft targets


def moein(image, text, temperature):
    """moein-shariatnia/OpenAI-CLIP's CLIPModel.forward, from its description."""
    logits = text @ image.T / temperature
    targets = F.softmax((image @ image.T + text @ text.T) / 2 * temperature, dim=-1)

    def cross_entropy(predictions, wanted):
        return (-wanted * F.log_softmax(predictions, dim=-1)).sum(1)

    return ((cross_entropy(logits, targets) + cross_entropy(logits.T, targets.T)) / 2).mean()


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_soft_target_equals_its_source(pair, tau):
    assert of_pairs(soft_target)(*pair, number(1 / tau)).item() == pytest.approx(moein(*pair, tau).item(), rel=1e-10)


def test_target_scale_is_the_same_at_one_and_differs_elsewhere(pair):
    loss, one, half = of_pairs(soft_target), number(1.0), number(2.0)
    assert loss(*pair, one, target_scale="divide") == loss(*pair, one, target_scale="multiply")
    assert loss(*pair, half, target_scale="divide") != loss(*pair, half, target_scale="multiply")


def test_detached_targets_change_the_gradient_and_not_the_loss(pair):
    loss, scale = of_pairs(soft_target), number(1.0)
    live, detached = loss(*pair, scale), loss(*pair, scale, detach_targets=True)
    assert live == detached
    gradients = [torch.autograd.grad(loss_value, pair[0], retain_graph=True)[0] for loss_value in (live, detached)]
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("loss", [infonce, soft_target])
def test_losses_of_pairs_refuse_other_numbers_of_images_and_texts(loss, several):
    with pytest.raises(ValueError, match="takes pairs, found 4 images and 7 texts"):
        of_several(loss)(*several, number(1.0))


# ---------------------------------------------------------------- several positives


def sup_con(anchors, others, anchor_ids, other_ids, scale):
    """Equation 2 of arXiv 2004.11362, the mean over anchors, term by term."""
    total = number(0.0)
    for anchor, anchor_id in zip(anchors, anchor_ids, strict=True):
        logits = scale * others @ anchor
        positives = [p for p, other in enumerate(other_ids) if other == anchor_id]
        total -= sum(torch.log(logits[p].exp() / logits.exp().sum()) for p in positives) / len(positives)
    return total / len(anchors)


def test_multi_positive_is_sup_con_in_both_directions(several):
    image, text = several
    scale = number(1.7)
    wanted = sup_con(image, text, IMAGE_IDS, TEXT_IDS, scale) + sup_con(text, image, TEXT_IDS, IMAGE_IDS, scale)
    actual = of_several(multi_positive)(*several, scale)
    assert actual.item() == pytest.approx(wanted.item() / 2, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multi_positive_with_one_text_an_image_is_infonce(pair, smoothing):
    scale = number(2.0)
    one, other = (of_pairs(loss)(*pair, scale, label_smoothing=smoothing) for loss in (multi_positive, infonce))
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


def test_label_smoothing_of_multi_positive_is_a_share_of_the_target_on_every_column(several):
    image, text = several
    wanted = number(0.0)
    for logits, rows, columns in ((image @ text.T, IMAGE_IDS, TEXT_IDS), (text @ image.T, TEXT_IDS, IMAGE_IDS)):
        same = number([[float(row == column) for column in columns] for row in rows])
        target = 0.7 * same / same.sum(1, keepdim=True) + 0.3 / len(columns)
        assert target.sum(1).tolist() == pytest.approx([1.0] * len(rows))
        wanted = wanted - (target * F.log_softmax(logits, dim=1)).sum(1).mean() / 2
    actual = of_several(multi_positive)(image, text, number(1.0), label_smoothing=0.3)
    assert actual.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_a_row_without_a_positive_gives_nan(several):
    batch = Batch(*several, torch.tensor([10, 20, 30, 99]), torch.tensor(TEXT_IDS))
    assert multi_positive(batch, batch, number(1.0), None).isnan()


def test_siglip_classifies_every_pair_and_divides_by_the_number_of_images(several):
    image, text = several
    scale, bias, wanted = number(3.0), number(-2.0), 0.0
    for x, image_id in zip(image, IMAGE_IDS, strict=True):
        for y, other in zip(text, TEXT_IDS, strict=True):
            label = 1 if image_id == other else -1
            # The paper's algorithm 1; its equation has the sign of t and b inside.
            wanted -= math.log(1 / (1 + math.exp(-label * (scale * x @ y + bias).item())))
    assert of_several(siglip)(*several, scale, bias).item() == pytest.approx(wanted / len(IMAGE_IDS), rel=1e-12)


def test_siglip_of_large_logits_is_finite_and_needs_a_bias(several):
    assert of_several(siglip)(*several, number(1e4), number(-10.0)).isfinite()
    with pytest.raises(ValueError, match="needs a bias"):
        of_several(siglip)(*several, number(1.0), None)


# ---------------------------------------------------------------- hard negatives


def robinson(logits, rows, columns, beta, weights=None):
    """-log of e^positive over itself and the weighted negatives, the mean over rows; also the weights used.

    Pairs: row i's positive is column i; another column of the same image is in neither place.
    """
    losses, used = [], []
    for i, row in enumerate(rows):
        others = logits[i, [j for j, column in enumerate(columns) if column != row]]
        weight = weights[i] if weights else ((beta * others).exp() / (beta * others).exp().mean()).detach()
        losses.append(-torch.log(logits[i, i].exp() / (logits[i, i].exp() + (weight * others.exp()).sum())))
        used.append(weight)
    return torch.stack(losses).mean(), used


IDS = [0, 1, 1, 2, 3, 2]


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_hard_negatives_of_infonce_weigh_negatives_and_mask_the_same_image(pair, beta):
    image, text = pair
    scale = number(1.5)
    logits = scale * image @ text.T
    (rows, row_weights), (columns, _) = robinson(logits, IDS, IDS, beta), robinson(logits.T, IDS, IDS, beta)
    actual = of_pairs(infonce, IDS)(image, text, scale, hard_negatives=beta)
    assert actual.item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-12)
    assert all(weight.mean().item() == pytest.approx(1) for weight in row_weights)
    # Weights are constants: the gradient is that of the loss with fixed weights.
    wanted = torch.autograd.grad((rows + columns) / 2, pair, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(actual, pair), wanted, rtol=1e-10, atol=1e-14)


def test_hard_negatives_of_multi_positive_weigh_negatives_and_leave_positives(several):
    image, text = several
    scale, beta, wanted = number(1.5), 0.8, number(0.0)
    for logits, rows, columns in ((image @ text.T, IMAGE_IDS, TEXT_IDS), (text @ image.T, TEXT_IDS, IMAGE_IDS)):
        for logit, row in zip(scale * logits, rows, strict=True):
            same = torch.tensor([row == column for column in columns])
            hardness = (beta * logit[~same]).exp().detach()
            denominator = logit[same].exp().sum() + (hardness / hardness.mean() * logit[~same].exp()).sum()
            wanted = wanted - torch.log(logit[same].exp() / denominator).mean() / len(rows) / 2
    actual = of_several(multi_positive)(image, text, scale, hard_negatives=beta)
    assert actual.item() == pytest.approx(wanted.item(), rel=1e-12)
    wanted_gradients = torch.autograd.grad(wanted, several)
    torch.testing.assert_close(torch.autograd.grad(actual, several), wanted_gradients, rtol=1e-10, atol=1e-14)


def test_weights_of_beta_zero_change_nothing(pair, several):
    scale = number(2.0)
    for call, arguments in ((of_pairs(infonce), pair), (of_several(multi_positive), several)):
        plain, weighted = call(*arguments, scale), call(*arguments, scale, hard_negatives=0.0)
        assert weighted.item() == pytest.approx(plain.item(), rel=1e-12)


def test_smoothing_with_hard_negatives_spreads_over_what_is_not_masked(pair):
    image, text = pair
    scale, smoothing = number(1.0), 0.2
    kept = torch.tensor([[a != b or i == j for j, b in enumerate(IDS)] for i, a in enumerate(IDS)])
    target = (1 - smoothing) * torch.eye(B).double() + smoothing * kept.double() / kept.sum(1, keepdim=True)
    wanted = number(0.0)
    for logits in (image @ text.T, text @ image.T):
        log_p = F.log_softmax(logits.masked_fill(~kept, -math.inf), dim=1).masked_fill(~kept, 0)
        wanted = wanted - (target * log_p).sum() / (2 * B)
    loss = of_pairs(infonce, IDS)(image, text, scale, label_smoothing=smoothing, hard_negatives=0.0)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, pair))


def test_a_batch_of_one_image_has_no_negatives_and_no_loss(pair):
    scale = number(1.0)
    loss = of_pairs(infonce, [5] * B)(*pair, scale, hard_negatives=1.0)
    assert loss.item() == 0 and all(not gradient.any() for gradient in torch.autograd.grad(loss, pair))
    loss = of_pairs(multi_positive, [5] * B)(*pair, scale, hard_negatives=1.0)
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, pair))


# ---------------------------------------------------------------- recipes


PAIRS = [
    InfoNCELoss(kind="infonce", label_smoothing=0.1),
    SoftTargetLoss(kind="soft_target", target_scale="divide"),
]
SEVERAL = [MultiPositiveLoss(kind="multi_positive", label_smoothing=0.1), SigLIPLoss(kind="siglip")]
PLAIN = {"infonce": infonce, "soft_target": soft_target, "multi_positive": multi_positive, "siglip": siglip}


@pytest.mark.parametrize("config", PAIRS + SEVERAL, ids=lambda config: config.kind)
def test_recipes_options_reach_the_loss_and_gradients_are_right(config, pair, several):
    call, arguments = (of_pairs, pair) if config in PAIRS else (of_several, several)
    loss, scale, bias = call(build_loss(config)), number(1.5, requires_grad=True), number(-1.0, requires_grad=True)
    plain = call(PLAIN[config.kind])(*arguments, scale, bias)
    assert (loss(*arguments, scale, bias) != plain) == (config.kind != "siglip")  # which has no options
    assert torch.autograd.gradcheck(loss, (*arguments, scale, bias))


@pytest.mark.parametrize("kind", ["infonce", "multi_positive"])
def test_hard_negatives_of_a_recipe_reach_the_loss(kind, pair):
    config = validate(Loss, {"kind": kind, "hard_negatives": 1}, "x.yaml")
    scale = number(1.5)
    wanted = of_pairs(PLAIN[kind])(*pair, scale, hard_negatives=1.0)
    assert of_pairs(build_loss(config))(*pair, scale, None) == wanted != of_pairs(PLAIN[kind])(*pair, scale)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"kind": "multi_positive", "hard_negatives": -1.0}, "hard_negatives: should be greater than or equal to 0"),
        ({"kind": "infonce", "label_smoothing": 1.0}, "label_smoothing: should be less than 1"),
        ({"kind": "siglip", "label_smoothing": 0.1}, "unknown key `label_smoothing`; allowed: kind"),
        ({"kind": "triplet"}, "kind: should be one of 'soft_target', 'infonce', 'multi_positive', 'siglip'"),
    ],
)
def test_a_wrong_loss_in_a_recipe_is_named(values, fault):
    with pytest.raises(UsageError, match=fault):
        validate(Loss, values, "x.yaml")
