"""What AutoAttack's rows do, step by step, against the authors' package on the same noise."""

import importlib

import pytest
import torch
from torch import nn

from fastadv.attacks.loop.row_queue import Begun
from fastadv.attacks.methods import apgd_autoattack, fab, square as windows
from fastadv.attacks.model.networks import Networks
from fastadv.reference import square as reference
from fastadv.reference.philox import philox

NORMS = {"linf": ("Linf", 0.1), "l2": ("L2", 1.2), "l1": ("L1", 4.0)}
SIDE = 16


class Recorded(nn.Module):
    """A network that keeps what it is shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.network(x)


@pytest.fixture
def in_double():
    """Everything that a peer makes is in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def hills(in_double):
    """Images [N, 3, 16, 16] to 10 logits, smooth, with a bend everywhere."""
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 8, 5, stride=3), nn.Softplus(), nn.Flatten(), nn.Linear(128, 40), nn.Tanh(), nn.Linear(40, 10)
    layers[0].weight.data *= 3
    layers[3].weight.data *= 3
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture
def batch(hills):
    """Images that are classified right, and their classes."""
    x = 0.2 + 0.6 * torch.rand(6, 3, SIDE, SIDE)
    return x, hills(x).argmax(1)


def rows(x, y, eps, target=None):
    ids = torch.arange(len(x))
    return Begun(x, y, torch.full([len(x)], eps), y if target is None else target, ids, torch.zeros_like(ids))


def run(search, begun):
    """All evaluations of rows that none leaves: the state after each, and the claims."""
    state, seen = search.begin(begun), []
    for number in range(search.evaluations):
        claims = search.evaluate(state)
        seen.append(({name: value.clone() for name, value in state.items()}, claims))
        if number + 1 < search.evaluations:
            search.step(state)
    return seen


def published(pyautoattack, name):
    return importlib.import_module(f"pyautoattack.{name}")


class TestAutoPGD:
    @pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("steps", [100, 37])
    def test_the_same_iterates(self, pyautoattack, monkeypatch, hills, batch, norm, loss, steps):
        (x, y), (name, eps) = batch, NORMS[norm]
        noise = torch.rand_like(x) if norm == "linf" else torch.randn_like(x)
        module = published(pyautoattack, "autopgd_base")
        kind = module.APGDAttack_targeted if loss == "dlr-targeted" else module.APGDAttack
        shown = Recorded(hills)
        theirs = kind(shown, n_iter=steps, norm=name, eps=eps, device="cpu")
        theirs.loss = loss
        theirs.y_target = target = hills(x).sort(1).indices[:, -2]
        theirs.init_hyperparam(x)
        monkeypatch.setattr(torch, "rand" if norm == "linf" else "randn", lambda shape: noise)
        _, robust, _, adversarial = theirs.attack_single_run(x, y)

        unit = 2 * noise - 1 if norm == "linf" else noise
        monkeypatch.setattr(apgd_autoattack, "random_start", lambda x, **_: unit)
        search = apgd_autoattack.AutoPGD(
            Networks(hills),
            loss=loss[:3].strip("-"),
            targeted=loss == "dlr-targeted",
            norm=norm,
            bounds=(0.0, 1.0),
            steps=steps,
            rho=0.75,
            eot=1,
            seed=0,
        )
        seen = run(search, rows(x, y, eps, target))
        # For l2 it adds 1e-12 to the length of a gradient, 1e-8 where a dlr is flat: one image parts ways there.
        apart = torch.stack(
            [
                (state["x"] - expected).flatten(1).abs().amax(1)
                for (state, _), expected in zip(seen, shown.seen, strict=True)
            ]
        )
        together = apart.amax(0) < (1e-9 if norm == "linf" else 1e-6)
        assert (~together).sum() <= (norm == "l2" and loss == "dlr")
        claims = torch.stack([claims for _, claims in seen])
        assert torch.equal(~claims.any(0), robust)
        last = torch.where(claims, torch.arange(len(seen))[:, None], -1).amax(0)
        assert not robust.all()
        for image in (~robust & together).nonzero().flatten().tolist():
            torch.testing.assert_close(seen[last[image]][0]["x"][image], adversarial[image], atol=1e-6, rtol=0)


@pytest.mark.parametrize("first", [0, 1])
def test_several_forwards_have_the_mean_gradient_of_the_cross_entropies(hills, batch, first):
    """That of the forward in which the network is sure hardly counts, in whichever order they come."""
    x, y = batch
    sure, unsure = (lambda x: 6 * hills(x)), (lambda x: -hills(x))
    turns = [sure, unsure]

    def in_turn(x):
        turns.reverse()
        return turns[first](x)

    how = {"targeted": False, "norm": "linf", "bounds": None, "steps": 1, "rho": 0.75, "seed": 0}
    search = apgd_autoattack.AutoPGD(Networks(in_turn), loss="ce", eot=2, **how)
    state = search.begin(rows(x, y, 0.1))
    grad = search._differentiate(state)[2]
    leaf = state["x"].clone().requires_grad_()
    of_each = [
        torch.autograd.grad(nn.functional.cross_entropy(network(leaf), y, reduction="sum"), leaf)[0]
        for network in (sure, unsure)
    ]
    assert torch.equal(grad.sign(), sum(of_each).sign())
    assert (grad.sign() != of_each[0].sign()).any()


class TestSparseAutoPGD:
    @pytest.mark.parametrize("targeted", [False, True])
    def test_the_same_three_phases(self, pyautoattack, monkeypatch, hills, batch, targeted):
        """With its projection in the place of ours.

        That gives ``(x + t) - t`` for x, so that rounding makes pixels count as moved that are not.
        """
        x, y = batch
        eps, noise = 4.0, torch.randn_like(x)
        module = published(pyautoattack, "autopgd_base")
        monkeypatch.setattr(torch.Tensor, "float", lambda x: x.double())
        shown = Recorded(hills)
        kind = module.APGDAttack_targeted if targeted else module.APGDAttack
        theirs = kind(shown, n_iter=100, norm="L1", eps=eps, device="cpu", use_largereps=True)
        theirs.loss = "dlr-targeted" if targeted else "ce"
        theirs.y_target = target = hills(x).sort(1).indices[:, -3]
        theirs.init_hyperparam(x)
        monkeypatch.setattr(torch, "randn_like", lambda like: noise)
        _, robust, _, _ = theirs.decr_eps_pgd(x, y, [3 * eps, 2 * eps, eps], [30, 30, 40])
        monkeypatch.undo()

        def onto(x, x0, radii):
            rows = zip(x0[:, None], (x - x0)[:, None], radii.tolist(), strict=True)
            return torch.cat([module.L1_projection(*row) for row in rows])

        def project(x, x0, *, eps, times=[2], **_):  # noqa: B006
            for _ in range(times.pop() if times else 1):  # the start it projects twice
                x = x + onto(x, x0, eps)
            return x

        def pgd_stepper(x0, *, eps, step_size, **_):
            def step(x, grad):
                moved = grad.sign() / (grad != 0).flatten(1).sum(1).view(-1, 1, 1, 1)
                x = x + step_size.view(-1, 1, 1, 1) * moved
                return x0 + (x - x0) + onto(x, x0, eps)

            return step

        monkeypatch.setattr(torch.Tensor, "float", lambda x: x.double())
        monkeypatch.setattr(apgd_autoattack, "project", project)
        monkeypatch.setattr(apgd_autoattack, "pgd_stepper", pgd_stepper)
        monkeypatch.setattr(apgd_autoattack.SparseAutoPGD, "_normal", lambda self, rows: noise)
        search = apgd_autoattack.SparseAutoPGD(
            Networks(hills),
            loss="dlr" if targeted else "ce",
            targeted=targeted,
            bounds=(0.0, 1.0),
            steps=100,
            rho=0.75,
            eot=1,
            seed=0,
        )
        seen = run(search, rows(x, y, eps, target))
        for (state, _), expected in zip(seen, shown.seen, strict=True):
            torch.testing.assert_close(state["x"], expected, atol=1e-6, rtol=0)
        assert torch.equal(~torch.stack([claims for _, claims in seen]).any(0), robust)

    def test_its_noise_is_normal(self):
        x = torch.zeros(64, 3, 32, 32)
        noise = apgd_autoattack.SparseAutoPGD._normal(
            type("Search", (), {"_seed": 1})(), rows(x, torch.zeros(64).long(), 1.0)
        )
        assert noise.isfinite().all()
        assert noise.mean().abs() < 0.01
        assert (noise.std() - 1).abs() < 0.01
        assert ((noise.abs() > 2).float().mean() - 0.0455).abs() < 0.002
        assert (noise[1:] * noise[:-1]).mean().abs() < 0.01


class TestFabSearch:
    @pytest.mark.parametrize("targeted", [True, False])
    @pytest.mark.parametrize("norm", NORMS)
    def test_the_same_iterates(self, pyautoattack, hills, batch, norm, targeted, monkeypatch):
        (x, y), name = batch, NORMS[norm][0]
        module, steps = published(pyautoattack, "fab_pt"), 100 if norm != "l1" else 30
        monkeypatch.setattr(torch.Tensor, "float", lambda x: x.double())
        shown = Recorded(hills)
        theirs = module.FABAttack_PT(shown, norm=name, n_iter=steps, eps=0.1, device="cpu", targeted=targeted)
        theirs.target_class = 3
        nearest = theirs.attack_single_run(x, y, is_targeted=targeted)
        monkeypatch.undo()
        search = fab.FabSearch(
            Networks(hills), targeted=targeted, norm=norm, bounds=(0.0, 1.0), steps=steps, restarts=1, seed=0
        )
        seen = run(search, rows(x, y, 0.0, hills(x).sort(1).indices[:, -3]))
        # It judges what each step made; the clean images it shows first, and where it differentiates, in between.
        judged = shown.seen[-2 * steps + 1 :: 2]
        for (state, _), expected in zip(seen[1:], judged, strict=True):
            torch.testing.assert_close(state["x"], expected, atol=1e-6, rtol=0)
        assert (seen[-1][0]["distance"] < 1e9).sum() >= 4
        torch.testing.assert_close(seen[-1][0]["nearest"], nearest, atol=1e-6, rtol=0)


class TestSquareSearch:
    @pytest.mark.parametrize("norm", NORMS)
    def test_the_same_proposals(self, pyautoattack, hills, batch, norm, monkeypatch):
        """One image at a time, since it draws a window for all of a batch, with our draws in the place of its own."""
        (x, y), (name, eps) = batch, NORMS[norm]
        module, queries = published(pyautoattack, "square"), 60
        ours = Recorded(hills)
        search = windows.SquareSearch(Networks(ours), norm=norm, bounds=(0.0, 1.0), queries=queries, rows=1, seed=5)
        longest = 0
        for image in range(4):
            one = slice(image, image + 1)
            begun = rows(x[one], y[one], eps)._replace(ids=torch.tensor([image]))
            draws = Draws(search, begun, norm, queries)
            shown = Recorded(hills)
            theirs = module.SquareAttack(shown, norm=name, n_queries=queries, eps=eps, resc_schedule=False)
            theirs.init_hyperparam(x[one])
            monkeypatch.setattr(torch.Tensor, "float", lambda x: x.double())
            monkeypatch.setattr(torch, "rand", lambda shape, draws=draws: next(draws.turns))
            monkeypatch.setattr(theirs, "random_int", lambda *_, draws=draws: next(draws.places))
            monkeypatch.setattr(theirs, "random_choice", lambda shape, draws=draws: next(draws.signs).view(shape))
            _, last = theirs.attack_single_run(x[one], y[one])
            monkeypatch.undo()
            ours.seen.clear()
            seen = run(search, begun)
            assert len(ours.seen) == 1 + queries
            for proposed, expected in zip(ours.seen, shown.seen, strict=False):
                # Its l1 projection puts a pixel back to (x + t) - t, of which the next window divides what is left of
                # the rounding by 1e-12.
                torch.testing.assert_close(proposed, expected, atol=1e-3 if norm == "l1" else 1e-9, rtol=0)
            longest = max(longest, len(shown.seen))
            # Where it ends, the margin is at zero or below.
            stands = hills(last).argmax(1) == y[one]
            assert torch.equal(stands, ~torch.stack([claims for _, claims in seen]).any(0))
        assert longest > 40


class Draws:
    """What our search draws for one image, in the order in which the published code asks for it."""

    def __init__(self, search, begun, norm, queries):
        channels = begun.x0.shape[1]
        places, signs, turns = [], [], []
        if norm == "linf":
            signs.append(search._signs(begun, [channels, 1, SIDE]))
        else:
            tiles = search._signs(begun, [channels + 1, 5, 5])[0].flatten(1).T
            signs += [tile[:channels] for tile in tiles]
            turns += [tile[channels:] < 0 for tile in tiles]
        sides = reference.sides(SIDE, SIDE, norm)
        for query in range(queries):
            block = torch.tensor([[query << 16, (query << 16) + 1]])
            where, colours = philox(torch.tensor(5), block, begun.ids)[0]
            side = sides[sum(query > level for level in reference.LEVELS)]
            places += [torch.tensor([int(word) * (SIDE - side) >> 32]) for word in where[: 2 if norm == "linf" else 4]]
            turns.append(where[:1] & 1 == 1)
            signs.append(torch.tensor([1.0 - 2 * (int(colours[0]) >> channel & 1) for channel in range(channels)]))
        self.places, self.signs = iter(places), iter(signs)
        self.turns = (turn.double() for turn in turns)
