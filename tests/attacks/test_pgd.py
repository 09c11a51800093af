"""pgd: where it ends up, and that it agrees with projected gradient ascent as people write it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

import fastadv
from fastadv.attacks import pgd


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    training = model.training
    with torch.no_grad():
        values = cross_entropy(model.eval()(x), y, reduction="none")
    model.train(training)
    return values


def distance(x: torch.Tensor, x0: torch.Tensor, norm: str) -> torch.Tensor:
    return (x - x0).flatten(1).double().norm(dim=1, p={"linf": torch.inf, "l2": 2.0}[norm])


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("mode", ["exact", "sequential"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.5)])
def test_stays_in_ball_and_box(network, images, labels, norm, eps, mode, random_start):
    x = pgd(network, images, labels, eps=eps, norm=norm, mode=mode, random_start=random_start)
    slack = 2.0**-23 if norm == "linf" else eps * 4 * 2.0**-23
    assert x.min() >= 0
    assert x.max() <= 1
    assert (distance(x, images, norm) <= eps + slack).all()
    assert distance(x, images, norm).max() > 0.9 * eps
    assert not x.requires_grad


def test_linf_optimum_of_a_linear_model(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).double()
    x, y = images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    weight = model[1].weight.detach()
    uphill = (weight[1 - y] - weight[y]).sign().view_as(x)
    expected = (x + 0.1 * uphill).clamp(0, 1)
    torch.testing.assert_close(pgd(model, x, y, eps=0.1), expected, atol=1e-15, rtol=0)


def test_l2_optimum_of_a_linear_model(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).double()
    x, y = images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    weight = model[1].weight.detach()
    uphill = weight[1 - y] - weight[y]
    expected = x + (0.5 * uphill / uphill.norm(dim=1, keepdim=True)).view_as(x)
    found = pgd(model, x, y, eps=0.5, step_size=2.0, steps=40, norm="l2", bounds=None)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_equals_plain_pgd_to_the_bit(network, images, labels):
    network.eval()
    eps, step_size = 8 / 255, 2 / 255
    x = images
    for _ in range(5):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(network(leaf), labels, reduction="sum"), leaf)
        x = (images + (x + step_size * grad.sign() - images).clamp(-eps, eps)).clamp(0, 1)
    found = pgd(network, images, labels, eps=eps, step_size=step_size, steps=5, random_start=False, mode="sequential")
    assert torch.equal(found, x)


def test_a_start_near_the_image(network, images, labels):
    def attack(**keywords):
        return pgd(network, images, labels, eps=0.1, seed=3, **keywords)

    near = fastadv.random_start(images, eps=0.01, seed=3)
    assert torch.equal(attack(steps=0, start_eps=0.01), near)
    assert torch.equal(attack(steps=0, start_eps=torch.full([6], 0.01)), near)
    assert distance(attack(steps=3, start_eps=0.01), images, "linf").max() > 0.05
    with pytest.raises(ValueError, match=r"start_eps must be at most eps, 0\.1, got 0\.2"):
        attack(start_eps=0.2)


@pytest.mark.parametrize(("eps", "start_eps"), [(0.1, torch.full([6], 0.5)), (torch.full([6], 0.1), 0.5)])
def test_a_start_for_each_sample_is_in_the_ball_too(network, images, labels, eps, start_eps):
    x = pgd(network, images, labels, eps=eps, start_eps=start_eps, steps=0, seed=3)
    assert torch.equal(x, fastadv.random_start(images, eps=0.1, seed=3))


def test_the_seed_decides_the_start(network, images, labels):
    def attack(seed):
        return pgd(network, images, labels, eps=0.1, steps=2, seed=seed)

    assert torch.equal(attack(3), attack(3))
    assert torch.equal(attack(3), attack(torch.tensor(3)))
    assert not torch.equal(attack(3), attack(4))


def test_no_label_attacks_the_prediction(network, images):
    prediction = network.eval()(images).argmax(1)
    by_default = pgd(network, images, eps=0.1, seed=0)
    assert torch.equal(by_default, pgd(network, images, prediction, eps=0.1, seed=0))
    assert (loss_of(network, by_default, prediction) > loss_of(network, images, prediction)).all()


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ("ce", [torch.arange(6) % 5]),
        (lambda logits: cross_entropy(logits, torch.arange(6) % 5, reduction="none"), []),
        (lambda logits, y: cross_entropy(logits, y, reduction="none"), [torch.arange(6) % 5]),
    ],
)
def test_targeted_descends(network, images, loss, labels):
    target = torch.arange(6) % 5
    x = pgd(network, images, *labels, eps=0.1, loss=loss, targeted=True, random_start=False)
    assert (loss_of(network, x, target) < loss_of(network, images, target)).all()


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr", lambda logits: logits.amax(1)])
def test_a_reference_that_nothing_reads_is_refused(network, images, labels, loss):
    with pytest.raises(ValueError, match='reference must be None for any loss but "kl" and a targeted "dlr"'):
        pgd(network, images, labels, eps=0.1, loss=loss, reference=network(images))


def test_kl_ascends_the_divergence_from_the_reference(network, images):
    network.eval()
    clean = network(images).detach()

    def divergence(x):
        return kl_div(log_softmax(network(x), 1), softmax(clean, 1), reduction="none").sum(1)

    found = pgd(network, images, eps=0.1, loss="kl", reference=clean, seed=0)
    assert (divergence(found) > divergence(pgd(network, images, eps=0.1, steps=0, seed=0))).all()
    assert torch.equal(found, pgd(network, images, eps=0.1, loss="kl", seed=0))
    by_autograd = pgd(network, images, eps=0.1, loss=lambda logits: divergence_of(logits, clean), seed=0)
    torch.testing.assert_close(found, by_autograd)


def divergence_of(logits, reference):
    return kl_div(log_softmax(logits, 1), softmax(reference, 1), reduction="none").sum(1)


def test_a_callable_loss_ascends_like_the_named_one(network, images, labels):
    named = pgd(network, images, labels, eps=0.1, seed=0)
    called = pgd(network, images, eps=0.1, seed=0, loss=lambda z: cross_entropy(z, labels, reduction="none"))
    assert torch.equal(named, called)


def test_networks_attacked_together(network, images, labels):
    other = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))

    def gap(logits):
        first, second = logits
        return (softmax(first, 1) - softmax(second, 1)).square().sum(1)

    def gap_at(x):
        return gap((network.eval()(x), other(x))).detach()

    x = pgd([network, other], images, eps=0.2, loss=gap, seed=0)
    assert (gap_at(x) > gap_at(pgd([network, other], images, eps=0.2, steps=0, loss=gap, seed=0))).all()
    # The gradient of either network alone leads elsewhere.
    one_sided = pgd([network, other], images, eps=0.2, loss=lambda z: gap((z[0], z[1].detach())), seed=0)
    assert not torch.equal(x, one_sided)


def test_best_returns_the_highest_loss_seen(network, images, labels):
    # Steps far too long make the last iterate a poor one.
    arguments = {"eps": 0.3, "step_size": 0.6, "steps": 7, "seed": 1}
    found = loss_of(network, pgd(network, images, labels, best=True, **arguments), labels)
    seen = [
        loss_of(network, pgd(network, images, labels, **{**arguments, "steps": steps}), labels) for steps in range(8)
    ]
    assert (torch.stack(seen).amax(0) > seen[-1]).any()
    torch.testing.assert_close(found, torch.stack(seen).amax(0))


def test_restarts_return_the_best_restart_of_each_sample(network, images, labels):
    arguments = {"eps": 0.1, "steps": 2, "seed": 2}
    network.eval()
    restarts = []
    for restart in range(3):
        ids = torch.arange(6) + (restart << 32)
        start = fastadv.random_start(images, eps=0.1, seed=2, sample_ids=ids)
        x = start
        for _ in range(2):
            leaf = x.clone().requires_grad_()
            (grad,) = torch.autograd.grad(cross_entropy(network(leaf), labels, reduction="sum"), leaf)
            x = fastadv.pgd_step(x, grad, images, eps=0.1, step_size=0.125)
        restarts.append(x)
    losses = torch.stack([loss_of(network, x, labels) for x in restarts])
    best = losses.argmax(0)
    assert len(best.unique()) > 1
    found = pgd(network, images, labels, restarts=3, **arguments)
    assert torch.equal(found, torch.stack(restarts)[best, torch.arange(6)])
    assert torch.equal(pgd(network, images, labels, **arguments), restarts[0])


def test_best_with_restarts_is_the_better_of_both(network, images, labels):
    arguments = {"eps": 0.3, "step_size": 0.6, "steps": 4, "seed": 1}
    both = loss_of(network, pgd(network, images, labels, restarts=3, best=True, **arguments), labels)
    for less in ({"restarts": 3}, {"best": True}):
        assert (both >= loss_of(network, pgd(network, images, labels, **less, **arguments), labels) - 1e-6).all()


def test_a_loss_of_nan_never_wins(images):
    def model(x):
        # Finite only where the first pixel has moved up.
        return torch.where(
            x.flatten(1)[:, :1] > images.flatten(1)[:, :1].repeat_interleave(4, 0), x.flatten(1), torch.nan
        )

    y = torch.zeros(6, dtype=torch.int64)
    x = pgd(model, images, y, eps=0.1, steps=0, restarts=4, bounds=None, seed=0, check=False)
    finite = x.flatten(1)[:, 0] > images.flatten(1)[:, 0]
    starts = pgd(lambda x: x.flatten(1), images, y, eps=0.1, steps=0, bounds=None, seed=0).flatten(1)[:, 0]
    assert finite.all()
    assert not (starts > images.flatten(1)[:, 0]).all()


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_and_step_size_for_each_sample(network, images, labels, norm, restarts):
    eps = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.3, 0.4])
    step_size = torch.tensor([0.1, 0.1, 0.1, 0.0, 0.2, 0.3])
    arguments = {"norm": norm, "restarts": restarts, "random_start": False, "steps": 4}
    together = pgd(network, images, labels, eps=eps, step_size=step_size, **arguments)
    for i in range(6):
        alone = pgd(network, images, labels, eps=eps[i].item(), step_size=step_size[i].item(), **arguments)
        torch.testing.assert_close(together[i], alone[i])
    assert torch.equal(together[0], images[0])
    assert torch.equal(together[3], images[3])


def test_the_default_step_size(network, images, labels):
    eps = torch.linspace(0.1, 0.2, 6)
    for radius in (eps, 0.1):
        expected = pgd(network, images, labels, eps=radius, step_size=2.5 * radius / 7, steps=7, seed=0)
        assert torch.equal(pgd(network, images, labels, eps=radius, steps=7, seed=0), expected)


def test_no_radius_returns_the_images_in_the_box(network, images, labels):
    assert torch.equal(pgd(network, images, labels, eps=0.0), images)
    outside = images * 1.5 - 0.2
    assert torch.equal(pgd(network, outside, labels, eps=0.0, check=False), outside.clamp(0, 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_steps_return_the_start(network, images, labels, norm):
    start = fastadv.random_start(images, eps=0.1, norm=norm, seed=5)
    assert torch.equal(pgd(network, images, labels, eps=0.1, norm=norm, steps=0, seed=5), start)
    assert torch.equal(pgd(network, images, labels, eps=0.1, steps=0, random_start=False), images)


def test_samples_do_not_see_each_other(network, images, labels):
    network, x = network.double(), images.double()
    together = pgd(network, x, labels, eps=0.1, random_start=False)
    for i in range(6):
        alone = pgd(network, x[i : i + 1], labels[i : i + 1], eps=0.1, random_start=False)
        torch.testing.assert_close(alone[0], together[i])
    first = pgd(network, x[:1], labels[:1], eps=0.1, seed=1)
    torch.testing.assert_close(first[0], pgd(network, x, labels, eps=0.1, seed=1)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_ball(network, images, labels, dtype):
    masters = pgd(network.to(dtype), images, labels, eps=2 / 255)
    of_half = pgd(network, images.to(dtype), labels, eps=2 / 255)
    for x, x0 in ((masters, images), (of_half, images.to(dtype).float())):
        assert x.dtype == torch.float32
        assert (x - x0).abs().max() <= 2 / 255 + 2.0**-23
        assert (x - x0).abs().max() > 1 / 255


def test_autocast_attacks_in_its_precision(network, images, labels):
    with torch.autocast("cpu", torch.bfloat16):
        x = pgd(network, images, labels, eps=0.1, seed=0)
    assert x.dtype == torch.float32
    assert (loss_of(network, x, labels) > loss_of(network, images, labels)).all()


def test_layouts_and_empty_batches(network, images, labels):
    expected = pgd(network, images, labels, eps=0.1, seed=0)
    strided = images.to(memory_format=torch.channels_last)
    for restarts in (1, 2):
        x = pgd(network, strided, labels, eps=0.1, seed=0, restarts=restarts)
        assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pgd(network, strided, labels, eps=0.1, seed=0), expected)
    for arguments in ({}, {"restarts": 2}, {"best": True}):
        assert pgd(network, images[:0], labels[:0], eps=0.1, **arguments).shape == (0, 3, 6, 6)


class Blind(nn.Linear):
    """Logits of its own parameters, whatever the images are."""

    def __init__(self):
        super().__init__(108, 5)

    def forward(self, x):
        return super().forward(x.flatten(1).detach())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"steps": 1.5}, TypeError, "steps must be an int, got float"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
        ({"eps": -0.1}, ValueError, "eps must not be negative"),
        ({"eps": torch.ones(3)}, ValueError, r"eps must be a float or have shape \[6\]"),
        ({"step_size": "1"}, TypeError, "step_size must be a float, got str"),
        ({"norm": "l3"}, ValueError, "norm must be one of"),
        ({"mode": "rough"}, ValueError, "mode must be one of"),
        ({"loss": "kl", "reference": [1.0]}, TypeError, "reference must be a tensor, got list"),
        ({"loss": "kl", "reference": torch.zeros(6, 4)}, ValueError, "reference must have the shape of logits"),
        ({"loss": "hinge"}, ValueError, "loss must be one of 'ce', 'kl', 'dlr', 'cw' or a callable, got 'hinge'"),
        ({"loss": lambda z: z.sum()}, ValueError, r"loss must give one value a row, a tensor \[6\], got \[\]"),
        ({"seed": 0.5}, TypeError, "seed must be an int"),
        ({"model": 3}, TypeError, "model must be a callable or a sequence of them, got int"),
        ({"model": []}, ValueError, "model must hold at least one network"),
        ({"model": [nn.Flatten(), nn.Flatten()]}, ValueError, "loss must be a callable of the tuple of logits"),
        ({"x": torch.zeros(6, 3, 6, 6, dtype=torch.uint8)}, TypeError, "x must be float64, float32"),
        ({"x": torch.zeros(6)}, ValueError, r"x must have shape \[N, ...\]"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, ValueError, r"^y must have shape \[6\], got \[5\]"),
        ({"y": torch.zeros(6, 1, dtype=torch.int64), "restarts": 2}, ValueError, r"^y must have shape \[6\]"),
        ({"y": [0] * 6}, TypeError, "^y must be an int64 tensor, got list"),
        ({"loss": "kl", "reference": torch.zeros(1, 5)}, ValueError, r"reference must have the batch of x, 6"),
        (
            {"loss": "dlr", "targeted": True, "reference": torch.zeros(6)},
            TypeError,
            "reference must be an int64 tensor",
        ),
        ({"targeted": "no"}, TypeError, "targeted must be a bool, got str"),
        ({"random_start": 0}, TypeError, "random_start must be a bool, got int"),
        ({"best": 1}, TypeError, "best must be a bool, got int"),
        ({"random_start": False, "seed": 0.5}, TypeError, "seed must be an int"),
        ({"random_start": False, "sample_ids": [0] * 6}, TypeError, "sample_ids must be an int64 tensor"),
        ({"start_eps": "wide"}, TypeError, "start_eps must be a float, got str"),
        ({"start_eps": -0.1}, ValueError, "start_eps must not be negative"),
        ({"start_eps": torch.ones(3)}, ValueError, r"start_eps must be a float or have shape \[6\]"),
        ({"model": lambda x: (x.flatten(1), x)}, TypeError, r"model must give logits \[N, C\], got tuple; wrap it"),
        ({"model": lambda x: x.flatten(2)}, ValueError, r"model must give logits \[6, C\], got \[6, 3,"),
        ({"model": lambda x: x.flatten(1)[:2]}, ValueError, r"model must give logits \[6, C\], got \[2,"),
        ({"model": lambda x: x.flatten(1).detach()}, ValueError, "model and loss must be differentiable by the images"),
        ({"model": Blind()}, ValueError, "model and loss must be differentiable by the images"),
        ({"loss": lambda z: z.sum(1).detach()}, ValueError, "model and loss must be differentiable by the images"),
    ],
)
def test_bad_arguments_are_named(network, images, labels, change, error, message):
    y = None if change.get("loss") == "kl" or callable(change.get("loss")) else labels
    arguments = {"model": network, "x": images, "y": y, "eps": 0.1} | change
    with pytest.raises(error, match=message):
        pgd(**arguments)
