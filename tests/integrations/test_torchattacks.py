"""torchattacks accelerated: the same images, the ball in half precision, and everything undone."""

import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fastadv.integrations.torchattacks import accelerate

NAMES = ["FGSM", "PGD", "PGDL2", "MIFGSM", "TPGD"]
LINF = [name for name in NAMES if name != "PGDL2"]


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


@pytest.fixture
def batch():
    torch.manual_seed(1)
    x = torch.rand(7, 3, 8, 8)  # seven: a mean over them rounds
    x[0, :, :2], x[1, :, :2] = 0.0, 1.0
    return x, torch.randint(0, 5, (7,))


def both(attack, x, y):
    """Return what ``attack`` gives on its own and accelerated, from the same random state."""
    torch.manual_seed(2)
    expected = attack(x, y)
    state = torch.get_rng_state()
    with accelerate():
        torch.manual_seed(2)
        found = attack(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    return found, expected


def without_random_start(library, name, network):
    return getattr(library, name)(network, **({"random_start": False} if name.startswith("PGD") else {}))


@pytest.mark.parametrize("name", LINF)
def test_the_same_images_to_the_bit(torchattacks, name, network, batch):
    found, expected = both(without_random_start(torchattacks, name, network), *batch)
    assert torch.equal(found, expected)
    assert not torch.equal(found, batch[0])
    found, expected = both(getattr(torchattacks, name)(network), *batch)
    assert torch.equal(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("random_start", [True, False])
def test_the_same_l2_images_up_to_rounding(torchattacks, random_start, network, batch):
    attack = torchattacks.PGDL2(network, eps=0.5, random_start=random_start)
    found, expected = both(attack, *batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.equal(found, batch[0])


def test_fgsm_moves_every_float_as_torchattacks_does(torchattacks):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(300 * 300, 2))
    x = torch.rand(3, 1, 300, 300) ** 4  # small values have bits that a sum with eps drops
    found, expected = both(torchattacks.FGSM(model), x, torch.tensor([0, 1, 0]))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["FGSM", "PGD", "MIFGSM"])
def test_targets_and_normalisation_are_those_of_the_attack(torchattacks, name, network, batch):
    attack = without_random_start(torchattacks, name, network)
    attack.set_normalization_used(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])
    plain = both(attack, *batch)
    attack.set_mode_targeted_by_function(target_map_function=lambda images, labels: (labels + 1) % 5)
    targeted = both(attack, *batch)
    for found, expected in (plain, targeted):
        assert torch.equal(found, expected)
    assert not torch.equal(plain[0], targeted[0])


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_stays(torchattacks, name, network, batch):
    found, expected = both(without_random_start(torchattacks, name, network.double()), batch[0].double(), batch[1])
    assert found.dtype == torch.float64
    # PGDL2 adds 1e-10 to the norms that it divides by.
    torch.testing.assert_close(found, expected, atol=0 if name != "PGDL2" else 1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_the_ball_holds_in_half_precision(torchattacks, name, dtype, network, batch):
    x, y = batch[0].to(dtype), batch[1]
    attack = without_random_start(torchattacks, name, network.to(dtype))
    with accelerate():
        found = attack(x, y)
    assert found.dtype == dtype
    moved = (found.double() - x.double()).flatten(1)
    distance = moved.norm(dim=1) if name == "PGDL2" else moved.abs().amax(1)
    assert (distance <= attack.eps * (1 + 4 * 2.0**-23)).all()
    assert (distance > 0.8 * attack.eps).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_torchattacks_alone_leaves_the_ball_in_bfloat16(torchattacks, network, batch):
    x, y = batch[0].bfloat16(), batch[1]
    attack = torchattacks.PGD(network.bfloat16(), random_start=False)
    assert (attack(x, y).double() - x.double()).abs().max() > 1.01 * attack.eps


def test_saturated_samples_move_in_float16(torchattacks, network, batch):
    x, y = (tensor.repeat(200, *[1] * (tensor.dim() - 1)) for tensor in batch)
    sure = Sure(network.eval().half(), y)
    for name in ("PGD", "PGDL2"):
        attack = without_random_start(torchattacks, name, sure)
        with accelerate():
            found = attack(x.half(), y)
        assert found.isfinite().all()
        assert ((found - x.half()).flatten(1).abs().amax(1) > 0).all()


class Sure(nn.Module):
    """``network``, sure of classes ``y``: averaged over the batch, its gradients are nothing in float16."""

    def __init__(self, network, y):
        super().__init__()
        self.network, self.raised = network, 12 * nn.functional.one_hot(y, 5).half()

    def forward(self, x):
        return self.network(x) + self.raised


def test_a_zero_gradient_moves_nothing(torchattacks, batch):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.weight * x.flatten(1)[:, :5]

    for name in NAMES[:4]:
        with accelerate():
            found = without_random_start(torchattacks, name, Constant())(*batch)
        assert torch.equal(found, batch[0]), name


@pytest.mark.parametrize("name", NAMES)
def test_channels_last(torchattacks, name, network, batch):
    attack = without_random_start(torchattacks, name, network)
    torch.manual_seed(3)
    with accelerate():
        expected = attack(*batch)
        torch.manual_seed(3)
        found = attack(batch[0].to(memory_format=torch.channels_last), batch[1])
    if name != "TPGD":  # whose noise follows the layout
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.shape == expected.shape


def test_subclasses_follow_unless_they_have_their_own(torchattacks, network, batch):
    class Inherits(torchattacks.PGD):
        pass

    class Overrides(torchattacks.PGD):
        def forward(self, images, labels=None):
            return images

    own = Overrides.forward
    with accelerate() as acceleration:
        assert Inherits.forward is torchattacks.PGD.forward
        assert torchattacks.PGD.forward.__module__ == "fastadv.integrations.torchattacks"
        assert Overrides.forward is own
        assert {cls.__name__ for cls in acceleration.classes} == set(NAMES)
    found, expected = both(Inherits(network, random_start=False), *batch)
    assert torch.equal(found, expected)


def test_everything_is_undone(torchattacks):
    originals = {name: getattr(torchattacks, name).forward for name in NAMES}

    def changed():
        return {name for name in NAMES if getattr(torchattacks, name).forward is not originals[name]}

    acceleration = accelerate()
    assert changed() == set(NAMES)
    with accelerate() as inner:
        assert inner.classes == ()
    assert changed() == set(NAMES)
    acceleration.restore()
    assert not changed()
    acceleration.restore()
    with pytest.raises(ZeroDivisionError), accelerate():
        raise ZeroDivisionError
    assert not changed()


def test_a_later_replacement_is_left_alone(torchattacks, monkeypatch):
    def other(self, images, labels):
        return images

    acceleration = accelerate()
    theirs = acceleration._originals[torchattacks.PGD]
    torchattacks.PGD.forward = other
    acceleration.restore()
    assert torchattacks.PGD.forward is other
    torchattacks.PGD.forward = theirs


def test_the_global_modes_and_the_model_are_left_alone(torchattacks, network, batch):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with accelerate(), torch.no_grad():
        torchattacks.PGD(network)(*batch)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_older_versions_without_get_logits(torchattacks, network, batch, monkeypatch):
    attack = torchattacks.PGD(network, random_start=False)
    attack.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 5)
    expected = attack(*batch)
    monkeypatch.delattr(attack, "targeted")
    monkeypatch.setattr(attack, "_targeted", True, raising=False)
    base = torchattacks.PGD.__base__
    monkeypatch.setattr(base, "_get_target_label", base.get_target_label, raising=False)
    for name in ("get_logits", "get_target_label"):
        monkeypatch.delattr(base, name)
    with accelerate():
        assert torch.equal(attack(*batch), expected)


def test_what_is_missing_or_unknown_is_said(torchattacks, monkeypatch):
    monkeypatch.setattr(torchattacks, "__version__", "4.0.0")
    with pytest.raises(RuntimeError, match=r"accelerate\(\) knows torchattacks 3, found 4.0.0"):
        accelerate()
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match="accelerate\\(\\) needs torchattacks: pip install torchattacks"):
        accelerate()


# What torchattacks takes for eps and alpha, of the images' shape [7, 3, 8, 8].
NUMBERS = {
    "float32": np.float32(0.03),
    "float64": np.float64(0.03),
    "int": 1,
    "no dimensions": torch.tensor(0.03),
    "no dimensions, float64": torch.tensor(0.03, dtype=torch.float64),
    "channels": torch.tensor([0.01, 0.02, 0.03]).view(3, 1, 1),
    "images": torch.linspace(0.01, 0.07, 7).view(7, 1, 1, 1),
    "pixels": torch.linspace(0.01, 0.07, 64).view(8, 8),
    "columns": torch.linspace(0.01, 0.08, 8),
    "columns, float64": torch.linspace(0.01, 0.08, 8, dtype=torch.float64),
    "negative": -0.03,
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("attribute", ["eps", "alpha"])
@pytest.mark.parametrize("name", NAMES)
def test_what_torchattacks_takes_is_taken(torchattacks, name, attribute, number, network, batch):
    attack = without_random_start(torchattacks, name, network)
    setattr(attack, attribute, number)
    try:
        attack(*batch)
    except RuntimeError as error:
        with accelerate(), pytest.raises(RuntimeError, match=re.escape(str(error))):
            attack(*batch)
        return
    found, expected = both(attack, *batch)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=0 if name != "PGDL2" else 1e-5, rtol=0)


@pytest.mark.parametrize("number", [np.float32(0.03), torch.tensor(0.03)], ids=["numpy", "tensor"])
@pytest.mark.parametrize("name", ["PGD", "PGDL2"])
def test_random_starts_take_numbers_of_every_kind(torchattacks, name, number, network, batch):
    found, expected = both(getattr(torchattacks, name)(network, eps=number), *batch)
    torch.testing.assert_close(found, expected, atol=0 if name != "PGDL2" else 1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*NAMES, "PGD by channels"])
def test_what_the_ops_take_is_computed_here(torchattacks, name, dtype, network, batch, monkeypatch):
    name, _, by_channels = name.partition(" ")
    attack = getattr(torchattacks, name)(network.to(dtype), eps=NUMBERS["channels"].to(dtype) if by_channels else 0.03)
    # A random start takes no tensor for the radius.
    attack.random_start = not by_channels
    x, y = batch[0].to(dtype), batch[1]

    def not_theirs(*arguments):
        raise AssertionError("torchattacks' own method was called")

    monkeypatch.setattr(getattr(torchattacks, name), "forward", not_theirs)
    with accelerate():
        assert not torch.equal(attack(x, y), x)
    with pytest.raises(AssertionError):
        attack(x, y)
