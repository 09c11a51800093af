"""svgd, variant "projected", and the ratio that says what its particles do."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, softplus

import fastadv
from fastadv.attacks import pgd, repulsion_ratio, svgd
from tests.attacks.trained import trained


@pytest.mark.parametrize("update", ["sign", "l2", "raw"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.5)])
def test_particles_stay_in_ball_and_box(network, images, labels, norm, eps, update):
    particles = svgd(network, images, labels, eps=eps, norm=norm, update=update, particles=3)
    assert particles.shape == (6, 3, 3, 6, 6)
    assert particles.min() >= 0
    assert particles.max() <= 1
    distance = (particles - images[:, None]).flatten(2).double()
    distance = distance.norm(dim=2, p={"linf": torch.inf, "l2": 2.0}[norm])
    assert (distance <= eps + (2.0**-23 if norm == "linf" else eps * 4 * 2.0**-23)).all()
    assert not particles.requires_grad


def test_equals_a_plain_loop(network, images, labels):
    eps, step_size = 0.1, 0.03
    network.eval()
    rows = images.repeat_interleave(3, 0)
    ids = torch.arange(6)[:, None] + (torch.arange(3) << 32)
    particles = fastadv.random_start(rows, eps=eps, seed=1, sample_ids=ids.flatten()).view(6, 3, 3, 6, 6)
    for _ in range(4):
        leaf = particles.flatten(0, 1).requires_grad_()
        loss = cross_entropy(network(leaf), labels.repeat_interleave(3), reduction="sum")
        (score,) = torch.autograd.grad(loss, leaf)
        particles = fastadv.svgd_step(
            particles.detach(), score.view_as(particles), images, eps=eps, step_size=step_size, score_scale="rms"
        )
    found = svgd(network, images, labels, eps=eps, step_size=step_size, steps=4, particles=3, seed=1)
    assert torch.equal(found, particles)


def test_one_particle_is_pgd(network, images, labels):
    particles = svgd(network, images, labels, eps=0.1, particles=1, seed=1)
    assert torch.equal(particles[:, 0], pgd(network, images, labels, eps=0.1, seed=1))


def test_images_do_not_see_each_other(network, images, labels):
    network, x = network.double(), images.double()
    together = svgd(network, x, labels, eps=0.1, seed=1)
    torch.testing.assert_close(svgd(network, x[:1], labels[:1], eps=0.1, seed=1)[0], together[0])
    others = torch.cat((x[:1], 1 - x[1:]))
    torch.testing.assert_close(svgd(network, others, labels, eps=0.1, seed=1)[0], together[0])


def test_particles_of_an_image_see_each_other(network, images, labels):
    def first(particles, bandwidth):
        return svgd(network, images, labels, eps=0.1, particles=particles, bandwidth=bandwidth, seed=1)[:, 0]

    assert not torch.equal(first(2, "median"), first(1, "median"))
    # A kernel that reaches nowhere leaves each particle alone.
    assert torch.equal(first(2, 1e-4), first(1, 1e-4))


def test_attraction_finds_loss_and_repulsion_distance(network, images, labels):
    network.eval()

    def loss_and_spread(**arguments):
        particles = svgd(network, images, labels, eps=0.1, seed=1, **arguments)
        spread = (particles[:, :, None] - particles[:, None]).flatten(3).norm(dim=3).mean()
        rows = particles.flatten(0, 1)
        return cross_entropy(network(rows), labels.repeat_interleave(4)).item(), spread.item()

    start, attracted, repelled, both = (
        loss_and_spread(**arguments)
        for arguments in ({"steps": 0}, {"score_scale": 1e6}, {"score_scale": 0.0}, {"score_scale": "rms"})
    )
    assert attracted[0] > both[0] > start[0]
    assert repelled[1] > both[1] > attracted[1]


def test_labels_by_default_and_losses(network, images):
    prediction = network.eval()(images).argmax(1)
    rows = prediction.repeat_interleave(4)
    expected = svgd(network, images, prediction, eps=0.1, seed=1)
    assert torch.equal(svgd(network, images, eps=0.1, seed=1), expected)
    # At a fixed scale the size of the score matters: a mean over the batch would show, and so would the log-odds.
    called = svgd(
        network, images, eps=0.1, seed=1, score_scale=1.0, loss=lambda z: cross_entropy(z, rows, reduction="none")
    )
    torch.testing.assert_close(called, svgd(network, images, prediction, eps=0.1, seed=1, score_scale=1.0))
    clean = network(images).detach()
    against_itself = svgd(network, images, eps=0.1, seed=1, loss="kl")
    assert torch.equal(against_itself, svgd(network, images, eps=0.1, seed=1, loss="kl", reference=clean))
    assert not torch.equal(against_itself, expected)


def test_a_confident_network_has_the_score_of_the_cross_entropy():
    """At logits so sharp that 1 - p_y underflows, by its logarithm in double precision."""
    network, x, y = trained()
    network, x, y = copy.deepcopy(network).double(), x[:40].double(), y[:40]
    classes = y.repeat_interleave(4)

    def sharp(x):
        return 300.0 * network(x)

    particles = svgd(sharp, x, y, eps=0.08, steps=0, norm="l2", seed=1)
    for _ in range(4):
        leaf = particles.flatten(0, 1).requires_grad_()
        z = sharp(leaf)
        odds = z.scatter(1, classes[:, None], -torch.inf).logsumexp(1) - z.gather(1, classes[:, None])[:, 0]
        (grad,) = torch.autograd.grad(odds.sum(), leaf)
        sure = -softplus(-odds.detach()).view(-1, 4)
        assert (sure.exp() == 0).any()
        # Of the weights of an image's particles only the ratio counts where the repulsion sets the scale.
        weight = (sure - sure.amax(1, keepdim=True)).exp()
        score = (weight.view(-1, 1, 1, 1) * grad).view_as(particles)
        particles = fastadv.svgd_step(
            particles.detach(), score, x, eps=0.08, step_size=0.05, score_scale="rms", update="l2", norm="l2"
        )
    how = {"eps": 0.08, "step_size": 0.05, "steps": 4, "update": "l2", "norm": "l2", "seed": 1}
    torch.testing.assert_close(svgd(sharp, x, y, **how), particles, atol=1e-7, rtol=0)


@pytest.mark.parametrize("update", ["sign", "l2"])
def test_every_particle_climbs_however_sure_the_network(update):
    """A kernel that reaches nowhere leaves each particle alone, and the surest one has no less to climb."""
    network, x, y = trained()
    how = {"eps": 0.5, "norm": "l2", "update": update, "bandwidth": 1e-3, "steps": 1, "step_size": 0.3}
    start = svgd(network, x, y, eps=0.5, norm="l2", steps=0, seed=1)
    for scale in (1.0, 1000.0):
        moved = svgd(lambda x, scale=scale: scale * network(x), x, y, seed=1, **how)
        assert ((moved - start).flatten(2).norm(dim=2) > 0.05).all()


def test_eps_and_step_size_for_each_image(network, images, labels):
    eps, step_size = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.1, 0.1]), torch.tensor([0.1, 0.0, 0.1, 0.1, 0.1, 0.1])
    particles = svgd(network, images, labels, eps=eps, step_size=step_size, seed=1)
    distance = (particles - images[:, None]).abs().flatten(1).amax(1)
    assert (distance <= eps + 2.0**-23).all()
    assert (distance >= 0.9 * eps).all()
    assert torch.equal(particles[1], svgd(network, images, labels, eps=0.1, steps=0, seed=1)[1])


def test_dtypes_layouts_and_empty_batches(network, images, labels):
    expected = svgd(network, images, labels, eps=0.1, seed=1)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(svgd(network, strided, labels, eps=0.1, seed=1), expected)
    half = svgd(network.bfloat16(), images.bfloat16(), labels, eps=2 / 255)
    assert half.dtype == torch.float32
    assert (half - images.bfloat16().float()[:, None]).abs().max() <= 2 / 255 + 2.0**-23
    assert svgd(network, images[:0], labels[:0], eps=0.1).shape == (0, 4, 3, 6, 6)


def test_repulsion_ratio_by_the_formula():
    particles, score = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    sigma = 1.5
    expected = []
    for x, s in zip(particles, score, strict=True):
        attraction, repulsion = torch.zeros_like(x), torch.zeros_like(x)
        for i in range(3):
            for j in range(3):
                k = torch.exp(-(x[i] - x[j]).square().sum() / (2 * sigma**2))
                attraction[i] += k * s[j] / 3
                repulsion[i] += k * (x[i] - x[j]) / sigma**2 / 3
        expected.append(repulsion.norm() / attraction.norm())
    torch.testing.assert_close(repulsion_ratio(particles, score, bandwidth=sigma), torch.stack(expected))


def test_repulsion_ratio_edge_values():
    particles = torch.randn(2, 3, 4)
    assert (repulsion_ratio(particles, torch.zeros_like(particles)) == torch.inf).all()
    assert (repulsion_ratio(particles[:, :1], torch.ones(2, 1, 4)) == 0).all()
    assert (repulsion_ratio(particles[:, :1], torch.zeros(2, 1, 4)) == 0).all()
    assert repulsion_ratio(particles, torch.full_like(particles, torch.nan)).isnan().all()
    far = repulsion_ratio(particles, torch.ones_like(particles), bandwidth="median")
    torch.testing.assert_close(repulsion_ratio(particles, torch.full_like(particles, 10.0)), far / 10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"particles": 0}, ValueError, "particles must be at least 1, got 0"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"steps": 0, "variant": "released"}, ValueError, "steps must be at least 1, got 0"),
        ({"variant": "text"}, ValueError, "variant must be one of 'projected', 'released', got 'text'"),
        ({"update": "momentum"}, ValueError, "update must be one of"),
        ({"bandwidth": "mean"}, ValueError, "bandwidth must be a float or 'median'"),
        ({"bandwidth": -1.0, "variant": "released"}, ValueError, "bandwidth must be positive"),
        ({"score_scale": "max"}, ValueError, "score_scale must be a float or 'rms'"),
        ({"eps": torch.ones(3)}, ValueError, r"eps must be a float or have shape \[6\]"),
        ({"eps": torch.ones(3), "variant": "released"}, ValueError, r"eps must be a float or have shape \[6\]"),
    ],
)
def test_bad_arguments_are_named(network, images, labels, change, error, message):
    y = () if change.get("variant") == "released" else (labels,)
    with pytest.raises(error, match=message):
        svgd(network, images, *y, **({"eps": 0.1} | change))


@pytest.mark.parametrize(
    ("shape", "bandwidth", "message"),
    [
        ((2, 3, 4), 0.0, "bandwidth must be at least 1e-18, got 0.0"),
        ((4, 4), "median", r"particles must have shape \[N, n, ...\], got \[4, 4\]"),
        ((2, 0, 4), "median", "particles must be at least one an image"),
    ],
)
def test_repulsion_ratio_refuses_what_is_none(shape, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        repulsion_ratio(torch.rand(shape), torch.rand(shape), bandwidth=bandwidth)
