"""Promises of every attack, whatever its options: randomly composed calls."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import fastadv
from fastadv.attacks import apgd, fgsm, mi_fgsm, pgd, svgd

CLASSES = 5  # one more than a targeted "dlr" ranks
ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
CALLS = st.fixed_dictionaries(
    {
        "samples": st.integers(1, 3),
        "size": st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
        "dtype": st.sampled_from([torch.float32, torch.float64]),
        "memory_format": st.sampled_from([torch.contiguous_format, torch.channels_last]),
        "norm": st.sampled_from(sorted(ORDERS)),
        "loss": st.sampled_from(["ce", "kl", "dlr", "cw"]),
        "eps": st.sampled_from([0.0, 1e-6, 8 / 255, 0.5, 3.0]),
        "each": st.booleans(),
        "seed": st.integers(0, 2**20),
    }
)
FEW = settings(max_examples=40, derandomize=True, deadline=None, database=None)

# The attacks that return the best point they have seen.
BEST = {
    "fgsm": lambda *args, **how: fgsm(*args, best=True, **how),
    "pgd": lambda *args, **how: pgd(*args, best=True, steps=3, **how),
    "pgd restarts": lambda *args, **how: pgd(*args, best=True, steps=2, restarts=2, **how),
    "mi_fgsm": lambda *args, **how: mi_fgsm(*args, best=True, steps=3, **how),
    "apgd": lambda *args, **how: apgd(*args, steps=5, **how),
    "apgd restarts": lambda *args, **how: apgd(*args, steps=3, restarts=2, **how),
}
ALL = BEST | {
    "pgd last": lambda *args, **how: pgd(*args, steps=3, **how),
    "mi_fgsm last": lambda *args, **how: mi_fgsm(*args, steps=3, **how),
    "svgd": lambda *args, **how: svgd(*args, steps=2, particles=3, **how)[:, -1],
}


class Drawn:
    """A network, images with pixels at the ends of the box, and the keywords of an attack."""

    def __init__(self, call: dict, *, targeted: bool = False) -> None:
        torch.manual_seed(call["seed"])
        dtype, shape = call["dtype"], (call["samples"], *call["size"])
        pixels = math.prod(call["size"])
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 7), nn.Tanh(), nn.Linear(7, CLASSES)).to(dtype)
        self.x = (
            (1.4 * torch.rand(shape, dtype=dtype) - 0.2).clamp(0, 1).contiguous(memory_format=call["memory_format"])
        )
        self.y = torch.randint(0, CLASSES, shape[:1])
        self.norm, self.loss, self.targeted = call["norm"], call["loss"], targeted
        self.eps = torch.linspace(1, 0.5, len(self.x)).mul(call["eps"]) if call["each"] else call["eps"]
        self.reference = None
        if self.loss == "kl":
            self.reference = torch.randn(len(self.x), CLASSES, dtype=dtype)
        elif self.loss == "dlr" and targeted:
            self.reference = (self.y + 1) % CLASSES
        self.labels = () if self.loss == "kl" else (self.y,)
        self.how = {"eps": self.eps, "norm": self.norm, "loss": self.loss, "reference": self.reference}
        if targeted:
            self.how["targeted"] = True

    def value(self, x: Tensor) -> Tensor:
        """The value of the attack's objective at ``x``."""
        y = None if self.loss == "kl" else self.y
        how = {"reference": self.reference, "targeted": self.targeted}
        return fastadv.attack_loss(self.network(x).detach(), y, kind=self.loss, **how)

    def reached(self, x: Tensor) -> Tensor:
        """The rows of ``x`` that are where the attack wants them."""
        wanted = self.reference.argmax(1) if self.loss == "kl" else self.y
        is_class = self.network(x).argmax(1) == wanted
        return is_class if self.targeted else ~is_class

    def assert_inside(self, x: Tensor) -> None:
        """``x`` is in the ball, by the bounds that the design states, and in the box."""
        resolution = torch.finfo(x.dtype).eps
        distance = torch.linalg.vector_norm((x.double() - self.x.double()).flatten(1), ord=ORDERS[self.norm], dim=1)
        radius = torch.as_tensor(self.eps, dtype=torch.float64)
        slack = resolution if self.norm == "linf" else 4 * resolution * radius
        assert (distance <= radius + slack).all()
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.parametrize("name", ALL)
@FEW
@given(call=CALLS)
def test_in_ball_and_box_and_the_same_by_seed(name, call):
    drawn = Drawn(call)
    found, again = (ALL[name](drawn.network, drawn.x, *drawn.labels, seed=call["seed"], **drawn.how) for _ in range(2))
    assert found.dtype == drawn.x.dtype
    assert torch.equal(found, again)
    drawn.assert_inside(found)
    if call["eps"] == 0:
        assert torch.equal(found, drawn.x)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", BEST)
@FEW
@given(call=CALLS)
def test_the_best_point_is_no_worse_than_the_image(name, targeted, call):
    drawn = Drawn(call, targeted=targeted)
    found = BEST[name](drawn.network, drawn.x, *drawn.labels, random_start=False, **drawn.how)
    drawn.assert_inside(found)
    # The value in a batch of restarts may round otherwise.
    before, after = drawn.value(drawn.x), drawn.value(found)
    higher, newly = after >= before - 1e-5 * (1 + before.abs()), drawn.reached(found) & ~drawn.reached(drawn.x)
    assert (higher | newly).all()
    assert not (drawn.reached(drawn.x) & ~drawn.reached(found)).any()
