"""The gradient is that of the same micro-batches in one graph, with the same units dropped."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipline.config.loss import InfoNCELoss, MultiPositiveLoss, SigLIPLoss, SoftTargetLoss
from clipline.losses import Batch, build_loss
from clipline.train.grad_cache import backward, frozen_statistics

LOSSES = [
    InfoNCELoss(kind="infonce", label_smoothing=0.1),
    SoftTargetLoss(kind="soft_target"),
    MultiPositiveLoss(kind="multi_positive", hard_negatives=0.5),
    SigLIPLoss(kind="siglip"),
]
IMAGES, SIZE = 7, 3  # micro-batches of 3, 3 and 1 images
IDS = torch.arange(IMAGES)


class Model(nn.Module):
    """Images through dropout (and batch norm), texts through an embedding and dropout."""

    def __init__(self, norm=False, dropout=0.3):
        super().__init__()
        torch.manual_seed(0)
        middle = nn.BatchNorm2d(6) if norm else nn.Tanh()
        self.image = nn.Sequential(nn.Conv2d(3, 6, 3), middle, nn.Dropout(dropout), nn.Flatten(), nn.Linear(24, 4))
        self.table, self.text = nn.Embedding(20, 5), nn.Sequential(nn.Dropout(dropout), nn.Linear(5, 4))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))
        self.double()

    def encode_image(self, pixels):
        return self.image(pixels)

    def encode_text(self, tokens):
        ids, mask = tokens
        return self.text((self.table(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    def loss_of(self, config):
        loss = build_loss(config)

        def call(image, text):
            batch = Batch(F.normalize(image, dim=-1), F.normalize(text, dim=-1), IDS, IDS)
            return loss(batch, batch, self.log_scale.exp(), self.bias)

        return call

    def gradients(self):
        return {name: param.grad for name, param in self.named_parameters() if param.grad is not None}


def inputs(size=SIZE):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(IMAGES, 3, 4, 4, generator=generator, dtype=torch.float64)
    ids = torch.randint(20, (IMAGES, 5), generator=generator)
    mask = (torch.arange(5) < torch.randint(1, 6, (IMAGES, 1), generator=generator)).double()
    return pixels.split(size), list(zip(ids.split(size), mask.split(size), strict=True))


def in_one_graph(model, loss, image_batches, text_batches):
    images = torch.cat([model.encode_image(batch) for batch in image_batches])
    texts = torch.cat([model.encode_text(batch) for batch in text_batches])
    value = loss(images, texts)
    value.backward()
    return value.detach()


def cached(model, loss, image_batches, text_batches):
    return backward(image_batches, text_batches, model.encode_image, model.encode_text, loss, model=model)


def both(config, size=SIZE, seed=5, **options):
    """Both ways, each on its own model and from the same random state."""
    models = [Model(**options) for _ in range(2)]
    values, states = [], []
    for model, way in zip(models, (in_one_graph, cached), strict=True):
        torch.manual_seed(seed)
        values.append(way(model, model.loss_of(config), *inputs(size)))
        states.append(torch.get_rng_state())
    return models, values, states


def assert_same(actual, wanted, rtol=1e-9, atol=1e-14):
    assert actual.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            actual[name], gradient, rtol=rtol, atol=atol, msg=lambda text, at=name: f"{at}: {text}"
        )


@pytest.mark.parametrize("norm", [False, True], ids=["dropout", "batch norm"])
@pytest.mark.parametrize("config", LOSSES, ids=lambda config: config.kind)
def test_gradient_and_loss_are_those_of_the_micro_batches_in_one_graph(config, norm):
    (one, other), values, _ = both(config, norm=norm)
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-12) and not values[1].requires_grad
    assert_same(other.gradients(), one.gradients())
    assert {"image.0.weight", "image.4.bias", "table.weight", "log_scale"} <= one.gradients().keys()
    assert all(gradient.any() for gradient in one.gradients().values())


def test_dropout_changes_the_gradient():
    (one, _), _, _ = both(LOSSES[0], seed=5)
    (other, _), _, _ = both(LOSSES[0], seed=6)
    assert not torch.allclose(one.gradients()["image.4.weight"], other.gradients()["image.4.weight"], rtol=0.1)


def test_without_dropout_it_is_the_gradient_of_the_batch_at_once():
    at_once, split = Model(dropout=0.0), Model(dropout=0.0)
    in_one_graph(at_once, at_once.loss_of(LOSSES[0]), *inputs(IMAGES))
    cached(split, split.loss_of(LOSSES[0]), *inputs(2))
    assert_same(split.gradients(), at_once.gradients())


def test_gradients_are_accumulated():
    model = Model(dropout=0.0)
    cached(model, model.loss_of(LOSSES[0]), *inputs())
    once = {name: gradient.clone() for name, gradient in model.gradients().items()}
    cached(model, model.loss_of(LOSSES[0]), *inputs())
    assert_same(model.gradients(), {name: 2 * gradient for name, gradient in once.items()})


def test_the_random_state_is_that_after_one_pass_and_the_loss():
    states = []
    for way in (in_one_graph, cached):
        model = Model()
        loss = model.loss_of(LOSSES[0])
        torch.manual_seed(5)
        before = torch.get_rng_state()
        way(model, lambda image, text, loss=loss: loss(image + 0.01 * torch.rand_like(image), text), *inputs())
        states.append(torch.get_rng_state())
    assert torch.equal(*states) and not torch.equal(states[0], before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_drops_the_same_units_too():
    grown = []
    for way in (in_one_graph, cached):
        model = Model().cuda()
        images, texts = inputs()
        batches = [batch.cuda() for batch in images], [(ids.cuda(), mask.cuda()) for ids, mask in texts]
        ids = IDS.cuda()
        loss = build_loss(LOSSES[0])

        def call(image, text, ids=ids, loss=loss, model=model):
            batch = Batch(image, text, ids, ids)
            return loss(batch, batch, model.log_scale.exp(), None)

        torch.manual_seed(5)
        way(model, call, *batches)
        grown.append((model.gradients(), torch.cuda.get_rng_state()))
    (wanted, state), (actual, after) = grown
    assert_same(actual, wanted)
    assert torch.equal(state, after)


def test_one_graph_at_a_time():
    class Kept:
        """A tensor that is saved in a graph."""

        alive = 0

        def __init__(self, tensor):
            self.tensor = tensor
            Kept.alive += 1

        def __del__(self):
            Kept.alive -= 1

    model, before = Model(), []

    def encode(pixels):
        before.append((torch.is_grad_enabled(), Kept.alive))
        return model.encode_image(pixels)

    images, texts = inputs()
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        backward(images, texts, encode, model.encode_text, model.loss_of(LOSSES[0]))
    assert before == [(False, 0)] * 3 + [(True, 0)] * 3
    assert Kept.alive == 0


# ---------------------------------------------------------------- batch norm


def test_running_statistics_follow_each_micro_batch_once():
    (one, other), _, _ = both(LOSSES[0], norm=True)
    assert other.image[1].num_batches_tracked.item() == 3
    for name, wanted in one.named_buffers():
        assert torch.equal(dict(other.named_buffers())[name], wanted), name
    assert not torch.equal(other.image[1].running_mean, torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_frozen_statistics_of_a_module_in_training(momentum):
    norm = nn.Sequential(nn.BatchNorm1d(4, momentum=momentum))
    generator = torch.Generator().manual_seed(0)
    first, second = (3 + torch.randn(8, 4, generator=generator) for _ in range(2))
    norm(first)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    assert before["0.num_batches_tracked"] == 1
    with frozen_statistics(norm):
        out = norm(second)
        assert out.mean(0).abs().max() < 1e-5  # normalised by the batch, not by the running mean
    after = dict(norm.named_buffers())
    assert all(torch.equal(after[name], before[name]) for name in before)
    out.sum().backward()  # the graph is still valid
    norm(second)
    assert norm[0].num_batches_tracked == 2 and not torch.equal(norm[0].running_mean, before["0.running_mean"])


def test_frozen_statistics_hold_when_the_block_fails():
    norm = nn.BatchNorm1d(4)
    with pytest.raises(RuntimeError, match="fault"), frozen_statistics(norm):
        norm(torch.randn(8, 4) + 3)
        raise RuntimeError("fault")
    assert norm.num_batches_tracked == 0 and not norm.running_mean.any()


# ---------------------------------------------------------------- frozen towers, autocast


def test_a_frozen_side():
    model, texts_seen = Model(dropout=0.0), []
    for module in (model.table, model.text):
        module.requires_grad_(False)

    def encode_text(tokens):
        texts_seen.append(len(tokens[0]))
        return model.encode_text(tokens)

    images, texts = inputs()
    backward(images, texts, model.encode_image, encode_text, model.loss_of(LOSSES[0]))
    wanted = Model(dropout=0.0)
    in_one_graph(wanted, wanted.loss_of(LOSSES[0]), *inputs())
    learned = {name: gradient for name, gradient in wanted.gradients().items() if not name.startswith("t")}
    assert_same(model.gradients(), learned)


def test_under_autocast_the_towers_alone_are_cast_and_every_weight_gets_its_gradient():
    """Autocast caches cast weights: those of the pass without a graph must not be used in the other."""
    wanted, model, dtypes = Model().float(), Model().float(), []
    images, texts = inputs()
    batches = [batch.float() for batch in images], [(ids, mask.float()) for ids, mask in texts]

    def seen(image, text):
        dtypes.append((image @ text.T).dtype)
        return model.loss_of(LOSSES[0])(image, text)

    def cast(encode):
        return lambda batch: encode(batch).float()

    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = [
            torch.cat([cast(encode)(batch) for batch in side])
            for encode, side in zip((wanted.encode_image, wanted.encode_text), batches, strict=True)
        ]
        assert model.encode_image(batches[0][0]).dtype == torch.bfloat16
    wanted.loss_of(LOSSES[0])(*embedded).backward()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        backward(*batches, cast(model.encode_image), cast(model.encode_text), seen)
        assert torch.is_autocast_enabled("cpu")
    assert dtypes == [torch.float32]
    assert_same(model.gradients(), wanted.gradients(), rtol=0.05, atol=2e-3)
    assert all(gradient.any() for gradient in model.gradients().values())


def test_what_a_tower_computes_in_float32_has_a_float32_gradient():
    wanted, model = Model(dropout=0.0), Model(dropout=0.0)
    for model_ in (wanted, model):
        model_.float()
    images, texts = inputs()
    batches = [batch.float() for batch in images], [(ids, mask.float()) for ids, mask in texts]

    def exactly(encode):
        def call(batch):
            with torch.autocast("cpu", enabled=False):
                return encode(batch)

        return call

    in_one_graph(wanted, wanted.loss_of(LOSSES[0]), *batches)
    with torch.autocast("cpu", torch.bfloat16):
        backward(*batches, exactly(model.encode_image), exactly(model.encode_text), model.loss_of(LOSSES[0]))
    assert_same(model.gradients(), wanted.gradients(), rtol=1e-4, atol=1e-6)
