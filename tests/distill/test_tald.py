"""TALD: its loss by hand, its particles, its controls, and how little it runs the networks."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from fastadv.attacks import repulsion_ratio, svgd
from fastadv.distill import KD, TALD, Batch, CrossEntropy

EPS = 0.1


def run(method, student, teacher, batch, seed=3):
    return method(student, teacher, Batch(*batch, progress=0.5, seed=seed))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"images": 2},
        {"clean": False},
        {"variant": "released", "images": 3},
        {"samples": "none"},
        {"samples": "noise", "norm": "l2"},
    ],
)
def test_loss_and_gradient_by_hand(student, teacher, batch, options):
    x, y = batch
    method = TALD(KD(temperature=2.0, alpha=0.6), weight=0.3, particles=3, eps=EPS, **options)
    terms = run(method, student, teacher, batch)
    terms["loss"].backward()
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    assert all(parameter.grad is None for parameter in teacher.parameters())

    student.zero_grad()
    attacked = options.get("images", 5)
    particles = method.draw(teacher, x[:attacked], y[:attacked], seed=3)
    assert particles.shape == (attacked, 3, 1, 8, 8)
    inputs = torch.cat((particles.flatten(0, 1), x))
    labels = torch.cat((y[:attacked].repeat_interleave(3), y))
    of_student = student(inputs)
    of_teacher = teacher.eval()(inputs).detach()
    gap = cross_entropy(of_student, labels, reduction="none") - cross_entropy(of_teacher, labels, reduction="none")
    matching = (gap if options.get("clean", True) else gap[: 3 * attacked]).square().mean()
    on_clean, soft_targets = of_student[3 * attacked :], softmax(of_teacher[3 * attacked :] / 2, 1)
    soft = kl_div(log_softmax(on_clean / 2, 1), soft_targets, reduction="batchmean")
    base = 0.4 * cross_entropy(on_clean, y) + 0.6 * 4 * soft
    loss = base + 0.3 * matching
    loss.backward()
    torch.testing.assert_close(terms["loss"], loss)
    torch.testing.assert_close(terms["kd"], base.detach())
    torch.testing.assert_close(terms["tald"], matching.detach())
    torch.testing.assert_close(gradients, [parameter.grad for parameter in student.parameters()])


def test_projected_particles_are_those_of_svgd(teacher, batch):
    x, y = batch
    options = {"eps": EPS, "steps": 2, "norm": "l2", "bandwidth": 0.3, "update": "l2", "score_scale": 5.0}
    particles = TALD(particles=3, **options).draw(teacher, x, y, seed=3)
    assert torch.equal(particles, svgd(teacher, x, y, particles=3, seed=3, **options))


def test_released_particles_are_those_of_svgd(teacher, batch):
    x, y = batch
    options = {"eps": EPS, "particles": 3, "bandwidth": 0.5, "bounds": (-1.0, 2.0), "variant": "released"}
    assert torch.equal(TALD(**options).draw(teacher, x, y, seed=3), svgd(teacher, x, seed=3, **options))
    assert not torch.equal(TALD(**options, xi=1.0).draw(teacher, x, y, seed=3), svgd(teacher, x, seed=3, **options))


def test_controls(teacher, batch):
    x, y = batch
    copies = TALD(samples="none", eps=EPS).draw(teacher, x, y, seed=3)
    assert torch.equal(copies, x[:, None].expand(-1, 4, -1, -1, -1))
    noise = TALD(samples="noise", eps=EPS).draw(teacher, x, y, seed=3)
    assert torch.equal(noise, svgd(teacher, x, y, eps=EPS, steps=0, seed=3))
    released = TALD(samples="noise", eps=EPS, variant="released", bounds=None).draw(teacher, x, y, seed=3)
    assert ((released - x[:, None]).flatten(2).norm(dim=2) <= EPS * (1 + 1e-6)).all()


@pytest.mark.parametrize("samples", ["svgd", "noise"])
def test_images_outside_of_the_bounds_are_refused(samples, teacher, batch):
    x, y = batch
    with pytest.raises(ValueError, match=r"x must lie in bounds, \(0.0, 1.0\), got values from"):
        TALD(samples=samples, eps=EPS).draw(teacher, 4 * x - 2, y, seed=3)


def test_particles_of_an_image_interact_and_images_do_not(teacher, batch):
    x, y = batch
    first = [TALD(particles=n, eps=EPS).draw(teacher, x, y, seed=3)[:, 0] for n in (1, 2)]
    assert not torch.equal(*first)
    together = TALD(eps=EPS).draw(teacher.double(), x.double(), y, seed=3)
    others = torch.cat((x[:1], 1 - x[1:])).double()
    torch.testing.assert_close(TALD(eps=EPS).draw(teacher, others, y, seed=3)[0], together[0])


@pytest.mark.parametrize(
    ("options", "teacher_rows"),
    [
        ({"steps": 3}, [20, 20, 20, 25]),
        ({"steps": 2, "images": 2}, [8, 8, 13]),
        ({"variant": "released", "images": 2}, [2, 8, 13]),
        ({"samples": "none"}, [25]),
        ({"samples": "noise"}, [25]),
    ],
)
def test_forward_passes(student, teacher, batch, options, teacher_rows):
    run(TALD(eps=EPS, **options), student, teacher, batch)
    assert student.rows == teacher_rows[-1:]
    assert teacher.rows == teacher_rows


def test_networks_keep_their_modes_and_the_teacher_its_statistics(student, teacher, batch):
    teacher.layers[1].eval()
    flags = [module.training for module in teacher.modules()]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    random_state = torch.get_rng_state()
    run(TALD(eps=EPS), student, teacher, batch)
    assert [module.training for module in teacher.modules()] == flags
    torch.testing.assert_close(dict(teacher.state_dict()), before, atol=0, rtol=0)
    assert all(module.training for module in student.modules())
    assert student.layers[1].num_batches_tracked == 1
    assert torch.equal(torch.get_rng_state(), random_state)


def test_terms(student, teacher, batch):
    terms = run(TALD(eps=EPS, steps=1), student, teacher, batch)
    assert list(terms) == ["loss", "kd", "tald", "repulsion"]
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]
    assert all(term.dim() == 0 for term in terms.values())
    x, y = batch
    start = svgd(teacher, x, y, eps=EPS, steps=0, seed=3)
    leaf = start.flatten(0, 1).requires_grad_()
    loss = cross_entropy(teacher.eval()(leaf), y.repeat_interleave(4), reduction="sum")
    (score,) = torch.autograd.grad(loss, leaf)
    expected = repulsion_ratio(start, score.view_as(start)).median()
    torch.testing.assert_close(terms["repulsion"], expected)

    assert "repulsion" not in run(TALD(eps=EPS, samples="noise"), student, teacher, batch)
    assert "repulsion" not in run(TALD(eps=EPS, variant="released"), student, teacher, batch)
    assert "ce" in run(TALD(CrossEntropy(), eps=EPS), student, teacher, batch)


def test_the_seed_decides(student, teacher, batch):
    student.eval()
    losses = [run(TALD(eps=EPS), student, teacher, batch, seed)["loss"] for seed in (1, torch.tensor(1), 2)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_half_precision(student, teacher, batch):
    x, y = batch
    with torch.autocast("cpu", torch.bfloat16):
        terms = run(TALD(eps=EPS), student, teacher, batch)
    terms["loss"].backward()
    assert terms["loss"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
    terms = run(TALD(eps=EPS), student.bfloat16(), teacher.bfloat16(), (x.bfloat16(), y))
    assert terms["loss"].isfinite()


def test_channels_last_reaches_the_networks(student, teacher, batch):
    x, y = batch
    layouts = []
    x = x.expand(-1, 1, -1, -1).repeat(1, 2, 1, 1).to(memory_format=torch.channels_last)
    squeeze = torch.nn.Conv2d(2, 1, 1)

    def watching(x):
        layouts.append(x.is_contiguous(memory_format=torch.channels_last))
        return student(squeeze(x))

    run(TALD(eps=EPS), watching, lambda x: teacher(squeeze(x)), (x, y))
    assert layouts == [True]


@pytest.mark.parametrize("options", [{}, {"variant": "released"}, {"samples": "noise"}])
def test_no_value_is_read_back(student, teacher, batch, options):
    """On the meta device there is no value to read: an item(), a branch on a tensor or a boolean index raises."""
    x, y = (tensor.to("meta") for tensor in batch)
    terms = run(TALD(eps=EPS, **options), student.to("meta"), teacher.to("meta"), (x, y))
    assert terms["loss"].is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to wait for")
def test_nothing_waits_for_the_device(student, teacher, batch):
    on_device = student.cuda(), teacher.cuda(), tuple(tensor.cuda() for tensor in batch)
    run(TALD(eps=EPS), *on_device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(TALD(eps=EPS), *on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"base": torch.nn.MSELoss()}, TypeError, "base must be a base loss such as KD, got MSELoss"),
        ({"weight": "0.1"}, TypeError, "weight must be a float, got str"),
        ({"particles": 0}, ValueError, "particles must be at least 1, got 0"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"images": 0}, ValueError, "images must be at least 1, got 0"),
        ({"norm": "l0"}, ValueError, "norm must be one of"),
        ({"variant": "text"}, ValueError, "variant must be one of"),
        ({"samples": "pgd"}, ValueError, "samples must be one of 'svgd', 'none', 'noise', got 'pgd'"),
        ({"xi": 0.0}, ValueError, "xi must be positive"),
        ({"eps": -0.1}, ValueError, "eps must not be negative"),
        ({"step_size": "0.1"}, TypeError, "step_size must be a float"),
        ({"bandwidth": -1.0}, ValueError, "bandwidth must be at least"),
        ({"bandwidth": "mean"}, ValueError, "bandwidth must be a float or 'median', got 'mean'"),
        ({"bandwidth": 0.0, "variant": "released"}, ValueError, "bandwidth must be positive"),
        ({"update": "adam"}, ValueError, "update must be one of"),
        ({"score_scale": "max"}, ValueError, "score_scale must be a float or 'rms', got 'max'"),
        ({"bounds": (1.0, 0.0)}, ValueError, "bounds must be"),
        ({"bounds": (1.0, 0.0), "samples": "noise"}, ValueError, "bounds must be"),
        ({"clean": 1}, TypeError, "clean must be a bool"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        TALD(**options)


def test_a_teacher_is_needed(student, batch):
    assert TALD().needs_teacher
    with pytest.raises(TypeError, match="teacher must be a network for TALD, got None"):
        run(TALD(), student, None, batch)
