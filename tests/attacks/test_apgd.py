"""apgd against the published algorithm written out, closed-form optima, and the best point it has seen."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastadv
from fastadv.attacks import apgd, pgd
from fastadv.attacks.methods.apgd_state import checkpoints, largest, sparsity_checkpoints

# p_j of the paper, j = 0, 1, ...
PUBLISHED = [0.0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99]

ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def losses(network, x, labels):
    with torch.no_grad():
        return cross_entropy(network(x), labels, reduction="none")


def gradient(network, x, labels):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(network(leaf), labels, reduction="sum"), leaf)[0]


def test_the_published_checkpoints():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9]  # and 10, after the last step
    assert [checkpoints(steps) for steps in (0, 1, 2, 3)] == [[], [], [1], [1, 2]]
    for steps in range(200):
        published = {math.ceil(p * steps - 1e-9) for p in PUBLISHED}
        assert checkpoints(steps) == sorted(published - {0, steps})


def test_the_published_checkpoints_of_l1():
    assert sparsity_checkpoints(100) == list(range(4, 100, 4))
    assert sparsity_checkpoints(49) == list(range(1, 49))
    assert [sparsity_checkpoints(steps) for steps in (0, 1, 2)] == [[], [], [1]]


def step(norm, x, size, direction, x0, eps):
    """The projection of x plus ``size`` times ``direction``, a row at a time, without a box for l2."""
    moved = x + size * direction
    if norm == "linf":
        return (x0 + (moved - x0).clamp(-eps, eps)).clamp(0, 1)
    length = (moved - x0).norm()
    return moved if length <= eps else x0 + (moved - x0) * (eps / length)


def written_out(network, x0, labels, start, *, norm, eps, steps, rho):
    """The published algorithm, a row at a time; also how often each row halved its step size and why."""
    x, before, marks = start.clone(), None, [math.ceil(p * steps - 1e-9) for p in PUBLISHED]
    rows = range(len(x0))
    sizes, values = [2 * eps] * len(x0), []
    best, best_grad = x.clone(), torch.zeros_like(x)
    best_values, reasons = [-math.inf] * len(x0), [[] for _ in rows]
    halved, checked = [False] * len(x0), None
    for k in range(steps + 1):
        value, grad = losses(network, x, labels).tolist(), gradient(network, x, labels)
        values.append(value)
        for i in rows:
            if value[i] > best_values[i]:
                best_values[i], best[i], best_grad[i] = value[i], x[i], grad[i]
        if k == steps:
            return best, reasons
        checked = checked or list(best_values)
        if k in marks[1:]:
            last = marks[marks.index(k) - 1]
            for i in rows:
                rises = sum(values[j + 1][i] > values[j][i] for j in range(last, k))
                seldom, stuck = rises < rho * (k - last), not halved[i] and best_values[i] == checked[i]
                halved[i], checked[i] = seldom or stuck, best_values[i]
                if halved[i]:
                    reasons[i].append((seldom, stuck))
                    sizes[i] /= 2
                    x[i], grad[i] = best[i], best_grad[i]
        moved = x.clone()
        for i in rows:
            uphill = grad[i].sign() if norm == "linf" else grad[i] / grad[i].norm()
            z = step(norm, x[i], sizes[i], uphill, x0[i], eps)
            ahead = z if before is None else x[i] + 0.75 * (z - x[i]) + 0.25 * (x[i] - before[i])
            moved[i] = step(norm, ahead, 0, uphill, x0[i], eps)
        x, before = moved, x


def hills():
    """A network whose loss has many small hills, on which some rows halve their steps and others do not."""

    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(6 * x)

    return nn.Sequential(nn.Flatten(), nn.Linear(108, 20), Sine(), nn.Linear(20, 5)).double()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 3.0)])
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("rho", [0.75, 0.4])
def test_equals_the_published_algorithm(norm, eps, steps, rho, labels):
    wavy = hills()
    x = 0.3 + 0.4 * torch.rand(6, 3, 6, 6, dtype=torch.float64)
    bounds = (0.0, 1.0) if norm == "linf" else None
    start = fastadv.random_start(x, eps=eps, norm=norm, bounds=bounds, seed=3)
    expected, reasons = written_out(wavy, x, labels, start, norm=norm, eps=eps, steps=steps, rho=rho)
    how = {"eps": eps, "norm": norm, "steps": steps, "rho": rho, "bounds": bounds, "mode": "sequential", "seed": 3}
    torch.testing.assert_close(apgd(wavy, x, labels, **how), expected, atol=1e-9, rtol=0)
    assert any(reasons)
    if steps == 20:
        assert len({len(each) for each in reasons}) > 1
        alone = (True, False) if rho == 0.75 else (False, True)
        assert any(alone in each for each in reasons)  # each rule halves a step where the other would not


def written_out_for_l1(network, x0, labels, start, *, eps, steps):
    """The published algorithm for l1, a row at a time; also how often each row was no sparser, and sparser."""
    x, every, elements = start.clone(), max(int(0.04 * steps), 1), x0[0].numel()
    rows = range(len(x0))
    sizes, shares, supports = [eps] * len(x0), [0.2] * len(x0), [elements] * len(x0)
    best, best_grad, best_values = x.clone(), torch.zeros_like(x), [-math.inf] * len(x0)
    found = [[0, 0] for _ in rows]
    for k in range(steps + 1):
        value, grad = losses(network, x, labels).tolist(), gradient(network, x, labels)
        for i in rows:
            if value[i] > best_values[i]:
                best_values[i], best[i], best_grad[i] = value[i], x[i], grad[i]
        if k == steps:
            return best, found
        if k and k % every == 0:
            for i in rows:
                support = int((best[i] != x0[i]).sum())
                sparser = support / supports[i] < 0.95
                sizes[i] = eps if sparser else max(sizes[i] / 1.5, eps / 10)
                supports[i], shares[i] = support, support / elements / 1.5
                found[i][sparser] += 1
                if sparser:
                    x[i], grad[i] = best[i], best_grad[i]
        for i in rows:
            ascending = grad[i].abs().flatten().sort().values
            least = ascending[min(int((1 - shares[i]) * elements + 1e-9), elements - 1)]
            direction = torch.where(grad[i].abs() >= least, grad[i], 0).sign()
            moved = x[i] + sizes[i] * direction / direction.abs().sum()
            x[i] = fastadv.project(moved[None], x0[i : i + 1], eps=eps, norm="l1")[0]


@pytest.mark.parametrize("steps", [10, 60])
def test_equals_the_published_algorithm_for_l1(steps, images, labels):
    wavy, x = hills(), images.double()
    start = fastadv.random_start(x, eps=4.0, norm="l1", seed=3)
    expected, found = written_out_for_l1(wavy, x, labels, start, eps=4.0, steps=steps)
    torch.testing.assert_close(
        apgd(wavy, x, labels, eps=4.0, norm="l1", steps=steps, seed=3), expected, atol=1e-9, rtol=0
    )
    assert all(any(times) for times in zip(*found, strict=True))


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("rho", [0.75, 0.4])
@pytest.mark.parametrize("restarts", [1, 2])
def test_each_row_has_the_checkpoints_of_its_own_number_of_steps(images, labels, restarts, rho, norm):
    wavy, x, y = hills(), images.double().repeat(3, 1, 1, 1), labels.repeat(3)
    steps = torch.tensor([20, 12, 5, 7, 16, 0] * 3)
    how = {"eps": 0.2 if norm == "linf" else 4.0, "norm": norm, "restarts": restarts, "rho": rho, "seed": 3}
    together = apgd(wavy, x, y, steps=steps, **how)
    for number in steps.unique().tolist():
        rows = steps == number
        torch.testing.assert_close(together[rows], apgd(wavy, x, y, steps=number, **how)[rows], atol=1e-9, rtol=0)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 2.0), ("l1", 8.0)])
@pytest.mark.parametrize("loss", ["ce", "dlr", "cw"])
def test_returns_the_best_point_of_all(network, images, labels, loss, norm, eps, restarts):
    network.eval()
    seen = []
    hook = network.register_forward_hook(lambda module, args, logits: seen.append(logits.detach()))
    found = apgd(network, images, labels, eps=eps, norm=norm, loss=loss, restarts=restarts, steps=12, seed=1)
    hook.remove()
    assert len(seen) == 13  # each step costs one evaluation
    rows = labels.repeat_interleave(restarts)
    values = torch.stack([fastadv.attack_loss(logits, rows, kind=loss) for logits in seen])
    best = values.view(13, 6, restarts).amax((0, 2))
    assert not torch.equal(values[-1].view(6, restarts).amax(1), best)
    torch.testing.assert_close(fastadv.attack_loss(network(found).detach(), labels, kind=loss), best)


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l1", 5.0)])
def test_never_worse_than_the_start(network, images, labels, norm, eps, steps):
    network.eval()
    how = {"eps": eps, "norm": norm, "seed": 4}
    start = losses(network, pgd(network, images, labels, steps=0, **how), labels)
    assert (losses(network, apgd(network, images, labels, steps=steps, **how), labels) >= start).all()


def linear(classes=2):
    """Two opposite classes, and more that are never near."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, classes)).double()
    with torch.no_grad():
        model[1].weight[1] = -model[1].weight[0]
        model[1].weight[2:] = 0
        model[1].bias[2:] = -1000.0
    return model


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_linf_optimum_of_a_linear_model(images, loss, targeted):
    model, x, y = linear(4), images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    weight = model[1].weight.detach()
    expected = (x + 0.1 * (weight[1 - y] - weight[y]).sign().view_as(x)).clamp(0, 1)
    how = {"targeted": True, "reference": y if loss == "dlr" else None} if targeted else {}
    found = apgd(model, x, 1 - y if targeted else y, eps=0.1, loss=loss, **how)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=0)


def test_l2_optimum_of_a_linear_model(images):
    model, x, y = linear(), images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    uphill = model[1].weight.detach()[1 - y] - model[1].weight.detach()[y]
    expected = x + (0.5 * uphill / uphill.norm(dim=1, keepdim=True)).view_as(x)
    found = apgd(model, x, y, eps=0.5, steps=40, norm="l2", bounds=None)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize("eps", [0.5, 5.0])
def test_l1_optimum_of_a_linear_model(images, bounds, eps):
    """The radius is spent on the largest weights, each as far as the box lets it, which few steps come close to."""
    model, x, y = linear(), images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    uphill = model[1].weight.detach()[1 - y] - model[1].weight.detach()[y]
    room = (
        torch.full_like(uphill, math.inf) if bounds is None else torch.where(uphill > 0, 1 - x.flatten(1), x.flatten(1))
    )
    order = uphill.abs().argsort(1, descending=True)
    spent = room.gather(1, order).cumsum(1).clamp(max=eps)
    gained = (spent.diff(dim=1, prepend=torch.zeros(6, 1)) * uphill.abs().gather(1, order)).sum(1)
    share = ((apgd(model, x, y, eps=eps, norm="l1", steps=25, bounds=bounds) - x).flatten(1) * uphill).sum(1) / gained
    assert (share > 0.99).all()
    assert (share < 1 + 1e-9).all()


def test_l1_spends_all_on_the_one_pixel_that_counts(images):
    model, y = linear(), torch.tensor([0, 1, 0, 1, 0, 1])
    with torch.no_grad():
        model[1].weight[:, :-1] = 0
    x, uphill = images.double().clamp(0.4, 0.6), (model[1].weight.detach()[1 - y] - model[1].weight.detach()[y]).sign()
    expected = x + 0.3 * uphill.view_as(x)
    torch.testing.assert_close(apgd(model, x, y, eps=0.3, norm="l1", steps=40), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.5), ("l1", 5.0)])
@pytest.mark.parametrize("mode", ["exact", "sequential"])
def test_stays_in_ball_and_box(network, images, labels, norm, eps, mode):
    x = apgd(network, images, labels, eps=eps, norm=norm, mode=mode)
    moved = (x.double() - images.double()).flatten(1).norm(dim=1, p=ORDER[norm])
    assert x.min() >= 0
    assert x.max() <= 1
    assert (moved <= eps + (2.0**-23 if norm == "linf" else eps * 4 * 2.0**-23)).all()
    assert moved.max() > 0.9 * eps


def test_a_row_that_is_not_a_number_holds_up_no_other(network, images, labels):
    network.eval()

    def broken(x):
        return torch.cat((network(x[:5]), network(x[5:]) * torch.nan))

    found = apgd(broken, images, labels, eps=0.1, seed=0, check=False)
    start = apgd(network, images, labels, eps=0.1, seed=0, steps=0)
    torch.testing.assert_close(found[:5], apgd(network, images, labels, eps=0.1, seed=0)[:5])
    assert torch.equal(found[5], start[5])


def test_the_largest_of_each_row_without_what_is_not_a_number():
    grad = torch.tensor([[math.nan, 3.0, -4.0, 1.0], [0.0, -math.inf, 2.0, 2.0]])
    found = largest(grad.view(2, 1, 2, 2), torch.tensor([1, 2])).view(2, 4)
    assert torch.equal(found, torch.tensor([[0.0, 0.0, -4.0, 0.0], [0.0, -math.inf, 2.0, 2.0]]))


def test_steps_and_sizes_by_default(network, images, labels):
    eps = torch.linspace(0.1, 0.2, 6)
    for radius in (eps, 0.1):
        expected = apgd(network, images, labels, eps=radius, step_size=2 * radius, steps=10, seed=0)
        assert torch.equal(apgd(network, images, labels, eps=radius, seed=0), expected)
    strided = (2 * eps).repeat_interleave(2)[::2]
    expected = apgd(network, images, labels, eps=eps, seed=0)
    assert torch.equal(apgd(network, images, labels, eps=eps, step_size=strided, seed=0), expected)
    by_default = apgd(network, images, labels, eps=5.0, norm="l1", seed=0)
    assert torch.equal(apgd(network, images, labels, eps=5.0, step_size=5.0, norm="l1", seed=0), by_default)
    assert torch.equal(apgd(network, images, labels, eps=0.0), images)
    assert torch.equal(apgd(network, images, labels, eps=0.0, norm="l1"), images)
    for norm in ORDER:
        assert apgd(network, images[:0], labels[:0], eps=0.1, norm=norm).shape == (0, 3, 6, 6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"norm": "l3"}, ValueError, "norm must be one of"),
        ({"rho": 0}, ValueError, "rho must lie in"),
        ({"rho": "high"}, TypeError, "rho must be a float, got str"),
        ({"eps": -0.1}, ValueError, "eps must not be negative"),
        ({"step_size": "1"}, TypeError, "step_size must be a float, got str"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"best": True}, TypeError, "unexpected keyword argument 'best'"),
    ],
)
def test_bad_arguments_are_named(network, images, labels, change, error, message):
    with pytest.raises(error, match=message):
        apgd(network, images, labels, **({"eps": 0.1} | change))
