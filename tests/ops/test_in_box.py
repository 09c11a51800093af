"""Images outside of their box are refused by each op that moves around them, which looks once at the same images."""

import pytest
import torch

import fastadv
from fastadv.ops import checks

MOVES = {
    "random_start": lambda x0, **how: fastadv.random_start(x0, eps=0.1, **how),
    "pgd_step": lambda x0, **how: fastadv.pgd_step(x0, x0, x0, eps=0.1, step_size=0.1, **how),
    "pgd_step_": lambda x0, **how: fastadv.pgd_step_(x0.clone(), x0, x0, eps=0.1, step_size=0.1, **how),
    "momentum_step": lambda x0, **how: fastadv.momentum_step(x0, x0, x0, x0, eps=0.1, step_size=0.1, **how)[0],
    "svgd_step": lambda x0, **how: fastadv.svgd_step(x0[:, None], x0[:, None], x0, eps=0.1, step_size=0.1, **how),
}
PIXELWISE = {
    "mask": {"mask": torch.ones(2, 2, dtype=torch.bool)},
    "bounds": {"bounds": (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))},
}
every_move = pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)


def images(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return scale * torch.linspace(0, 1, 24, dtype=dtype).view(2, 3, 2, 2)


@every_move
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_images_outside_of_the_box_are_refused_with_the_range_seen(move, norm):
    sentence = r"x0 must lie in bounds, \(0.0, 1.0\), got values from 0 to 255: images are pixels in \[0, 1\]"
    with pytest.raises(ValueError, match=sentence):
        move(images(255.0), norm=norm)
    assert move(images(255.0), norm=norm, bounds=(0.0, 255.0)).max() > 200
    assert move(images(255.0), norm=norm, bounds=None).max() > 200


@pytest.mark.parametrize("given", PIXELWISE.values(), ids=PIXELWISE)
@pytest.mark.parametrize("name", ["random_start", "pgd_step", "pgd_step_", "momentum_step"])
def test_so_they_are_with_a_mask_and_with_bounds_for_each_channel(name, given):
    with pytest.raises(ValueError, match=r"x0 must lie in bounds.*got values from 0 to 2"):
        MOVES[name](images(2.0), **given)
    assert MOVES[name](images(), **given).max() <= 1


def test_the_iterates_stay_as_they_are_where_their_centre_is_refused():
    x, x0 = images(), images(2.0)
    with pytest.raises(ValueError, match="x0 must lie in bounds"):
        fastadv.pgd_step_(x, x, x0, eps=0.1, step_size=0.1)
    assert torch.equal(x, images())


@every_move
def test_the_same_images_are_looked_at_once(move, monkeypatch):
    looked = []
    monkeypatch.setattr(checks, "span_in_box", lambda name, x, *_: looked.append(x))
    x0 = images()
    for _ in range(3):
        move(x0)
    assert len(looked) == 1


@every_move
def test_images_are_looked_at_again_when_they_or_the_box_have_changed(move):
    x0 = images()
    move(x0)
    with pytest.raises(ValueError, match=r"bounds, \(0.0, 0.5\), got values from 0 to 1"):
        move(x0, bounds=(0.0, 0.5))
    move(x0)
    with pytest.raises(ValueError, match="got values from 0 to 3"):
        move(images(3.0))
    x0.mul_(2)
    with pytest.raises(ValueError, match="got values from 0 to 2"):
        move(x0)
    with torch.inference_mode():
        x0 = images()
        move(x0)
        x0.mul_(2)
        with pytest.raises(ValueError, match="got values from 0 to 2"):
            move(x0)


@every_move
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_rounding_leaves_outside_is_let_through(move, dtype):
    mean, std = 0.485, 0.229
    low, high = (0 - mean) / std, (1 - mean) / std
    normalised = ((images() - mean) / std).to(dtype)
    move(normalised, bounds=(low, high))
    with pytest.raises(ValueError, match="x0 must lie in bounds"):
        move(normalised * 1.01, bounds=(low, high))


def test_bounds_of_each_sample_and_bounds_of_another_kind_for_images_that_were_seen():
    x0 = images()
    low, high = torch.tensor([0.0, 0.4]), torch.tensor([0.6, 1.0])
    fastadv.random_start(x0, eps=0.1)
    for bounds in ((low, high), (0.0, torch.ones(3, 1, 1)), (low, 1.0)):
        assert fastadv.random_start(x0, eps=0.1, bounds=bounds).shape == x0.shape
    with pytest.raises(ValueError, match="x0 must lie in bounds"):
        fastadv.random_start(x0, eps=0.1, bounds=(low, high - 0.2))
    # As many samples as there are columns.
    with pytest.raises(ValueError, match="x0 must lie in bounds"):
        fastadv.random_start(x0, eps=0.1, bounds=(low.flip(0), high.flip(0)))


@pytest.mark.parametrize("bounds", [1.0, (0.0, 0.5, 1.0), "01a"])
@every_move
def test_bounds_that_are_no_pair(move, bounds):
    with pytest.raises(TypeError, match="bounds must be None or a pair of floats"):
        move(images(), bounds=bounds)
