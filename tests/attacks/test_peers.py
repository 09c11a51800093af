"""Agreement with torchattacks, adv-lib and foolbox where they compute the same thing."""

import pytest
import torch
from torch import nn

import fastadv
from fastadv.attacks import apgd, fgsm, mi_fgsm, pgd
from fastadv.attacks.loop.ball import Ball

# What makes Auto-PGD comparable: a number of steps for which the peers' rounding of the checkpoints is the paper's, and
# a rho that no share of steps equals.
STEPS, RHO = 100, 0.7501


class Wave(nn.Module):
    def forward(self, x):
        return torch.sin(2 * x)


@pytest.fixture
def hills() -> nn.Module:
    """Images [N, 3, 6, 6] to 5 logits, with many small hills."""
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 20), Wave(), nn.Linear(20, 5)).eval()


@pytest.fixture
def batch():
    """Eight images, over which a mean divides by a power of two, away from the box, and their classes."""
    return 0.3 + 0.4 * torch.rand(8, 3, 6, 6), torch.randint(0, 5, (8,))


@pytest.fixture
def in_double():
    """Everything that a peer makes is in double precision, the losses that it keeps too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def start_at(monkeypatch):
    """Lets our next attacks begin where a peer's does."""

    def at(start):
        monkeypatch.setattr(Ball, "random_rows", lambda *_: start.clone())  # a start is the attack's own memory

    return at


def first_images(attack, x, y):
    """Return what a torchattacks attack shows the network at its first step, and its result."""
    seen, logits = [], attack.get_logits
    attack.get_logits = lambda images: seen.append(images.detach().clone()) or logits(images)
    found = attack(x, y)
    return seen, found


def counts_its_first_step(model, x, y, *, loss, eps, **how):
    """The rows whose first step the peer counts as rising where we do, which takes the loss before it to be zero."""
    how |= {"eps": eps, "step_size": 2 * eps, "loss": loss}
    points = (pgd(model, x, y, steps=steps, **how) for steps in (0, 1))
    before, after = (fastadv.attack_loss(model(point), y, kind=loss) for point in points)
    rows = (after > before) == (after > 0)
    assert rows.sum() >= 5
    return rows


class TestTorchattacks:
    @pytest.mark.parametrize("targeted", [False, True])
    def test_linf_to_the_bit(self, torchattacks, hills, batch, targeted):
        x, y = batch
        for attack, ours in (
            (torchattacks.PGD(hills, eps=0.1, alpha=0.03, steps=7, random_start=False), {"steps": 7}),
            (torchattacks.FGSM(hills, eps=0.1), {"steps": 1}),
        ):
            if targeted:
                attack.set_mode_targeted_by_function(lambda images, labels: labels, quiet=True)
            step_size = getattr(attack, "alpha", 0.1)
            how = {"eps": 0.1, "step_size": step_size, "mode": "sequential", "random_start": False, **ours}
            assert torch.equal(pgd(hills, x, y, targeted=targeted, **how), attack(x, y))
        assert torch.equal(fgsm(hills, x, y, eps=0.1, targeted=targeted, mode="sequential"), attack(x, y))

    def test_pgd_l2(self, torchattacks, hills, batch, start_at):
        seen, expected = first_images(torchattacks.PGDL2(hills, eps=0.5, alpha=0.2, steps=7), *batch)
        start_at(seen[0])
        found = pgd(hills, *batch, eps=0.5, step_size=0.2, steps=7, norm="l2", mode="sequential")
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("decay", [1.0, 0.5])
    def test_mi_fgsm(self, torchattacks, hills, batch, decay):
        expected = torchattacks.MIFGSM(hills, eps=0.1, alpha=0.03, steps=7, decay=decay)(*batch)
        found = mi_fgsm(hills, *batch, eps=0.1, step_size=0.03, steps=7, decay=decay)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    def test_tpgd_is_pgd_of_the_divergence(self, torchattacks, hills, batch, start_at):
        seen, expected = first_images(torchattacks.TPGD(hills, eps=0.1, alpha=0.03, steps=7), *batch)
        start_at(seen[1])  # after the clean images
        found = pgd(hills, batch[0], eps=0.1, step_size=0.03, steps=7, loss="kl")
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("norm", "eps", "loss"), [("linf", 0.2, "ce"), ("linf", 0.2, "dlr"), ("l2", 1.5, "ce"), ("l2", 0.7, "ce")]
    )
    def test_apgd(self, torchattacks, in_double, hills, batch, start_at, norm, eps, loss):
        hills, x, y = hills.double(), batch[0].double(), batch[1]
        theirs = torchattacks.APGD(hills, norm=norm.capitalize(), eps=eps, steps=STEPS, loss=loss, rho=RHO)
        theirs.forward = lambda x, y: theirs.attack_single_run(x, y)[0]  # the highest loss, not the last misclassified
        seen, expected = first_images(theirs, x, y)
        start_at(seen[0])
        mode = "exact" if norm == "linf" else "sequential"
        comparable = counts_its_first_step(hills, x, y, eps=eps, norm=norm, loss=loss, mode=mode)
        found = apgd(hills, x, y, eps=eps, norm=norm, steps=STEPS, loss=loss, rho=RHO, mode=mode)
        torch.testing.assert_close(found[comparable], expected[comparable], atol=1e-7, rtol=0)


class TestAdvLib:
    @pytest.mark.parametrize(("theirs", "ours"), [("ce", "ce"), ("dl", "cw"), ("dlr", "dlr")])
    def test_pgd(self, adv_lib, in_double, hills, batch, theirs, ours):
        """It returns the last iterate that is misclassified, and does not look at the very last."""
        hills, x, y = hills.double(), batch[0].double(), hills.double()(batch[0].double()).argmax(1)
        how = {"random_init": False, "absolute_step_size": 0.03}
        expected = adv_lib.pgd_linf(hills, x, y, 0.15, steps=9, loss_function=theirs, **how)
        found = pgd(hills, x, y, eps=0.15, step_size=0.03, steps=8, loss=ours, random_start=False)
        misclassified = hills(found).argmax(1) != y
        assert misclassified.sum() >= 4
        torch.testing.assert_close(found[misclassified], expected[misclassified], atol=1e-12, rtol=0)

    # For linf and l2 it keeps no copy of the best loss at the last checkpoint, and halves where that has changed.
    @pytest.mark.parametrize(("loss", "targeted"), [("ce", False), ("ce", True), ("dlr", False)])
    def test_l1_apgd(self, adv_lib, in_double, hills, batch, start_at, monkeypatch, loss, targeted):
        hills, x, y = hills.double(), batch[0].double(), batch[1]
        start = fastadv.random_start(x, eps=4.0, norm="l1", seed=1)
        start_at(start)
        found = apgd(hills, x, y, eps=4.0, norm="l1", steps=STEPS, loss=loss, targeted=targeted)
        monkeypatch.setattr(torch, "randn_like", lambda x: start - x)
        expected, *_ = adv_lib.auto_pgd._apgd(
            hills, x, y, torch.full([8], 4.0), norm=1, targeted=targeted, n_iter=STEPS, loss_function=loss
        )
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


class TestFoolbox:
    @pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
    def test_pgd(self, foolbox, hills, batch, norm, eps):
        attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
        found = pgd(hills, *batch, eps=eps, step_size=eps / 4, steps=7, norm=norm, random_start=False)
        attack = attack(rel_stepsize=0.25, steps=7, random_start=False)
        torch.testing.assert_close(found, images_of(attack, foolbox, hills, *batch, eps), atol=1e-6, rtol=0)

    @pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
    def test_fgsm(self, foolbox, hills, batch, norm, eps):
        attack = {"linf": foolbox.attacks.LinfFastGradientAttack, "l2": foolbox.attacks.L2FastGradientAttack}[norm]
        found = fgsm(hills, *batch, eps=eps, norm=norm)
        torch.testing.assert_close(found, images_of(attack(), foolbox, hills, *batch, eps), atol=1e-6, rtol=0)

    def test_pgd_l1(self, foolbox, hills, batch):
        """A quantile between the tenth and the eleventh largest coordinate; no farther than its projection is exact."""
        attack = foolbox.attacks.SparseL1DescentAttack(quantile=97.5 / 107, rel_stepsize=0.9, steps=1)
        how = {"norm": "l1", "l1_fraction": 9.5 / 108, "random_start": False}
        found = pgd(hills, *batch, eps=0.2, step_size=0.18, steps=1, **how)
        torch.testing.assert_close(found, images_of(attack, foolbox, hills, *batch, 0.2), atol=1e-6, rtol=0)


def images_of(attack, foolbox, model, x, y, eps):
    """Return the images of a foolbox attack, misclassified or not."""
    raw, _, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    return raw
