"""square_propose against its definition written as loops over windows, its budget, and whose draws they are."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastadv
from fastadv.ops.square import _tables
from fastadv.reference.philox import philox
from fastadv.reference.square import bump, sides
from tests.ops.cases.draws import Draw
from tests.ops.tolerance import assert_within

RADII = {"linf": 0.05, "l2": 0.8, "l1": 6.0}
ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
# Queries around which windows shrink, and one beyond the last of them.
QUERIES = [0, 10, 11, 50, 201, 8000, 8001, 10**6]
LEVELS = [0, 0, 1, 1, 3, 8, 9, 9]


def images(norm, dtype=torch.float64, size=(8, 3, 12, 9)):
    """Points inside ball and box, on whose border the ball of some ends, the clean images, and their queries."""
    draw = Draw(dtype, 4)
    x0 = draw.pixels(size)
    start = fastadv.project(x0 + draw.normal(size, 0.1), x0, eps=RADII[norm], norm=norm)
    return start, x0, torch.tensor(QUERIES).repeat(-(-size[0] // 8))[: size[0]]


def propose(x, x0, query, norm, **keywords):
    return fastadv.square_propose(x, x0, query, norm=norm, **({"eps": RADII[norm], "seed": 7} | keywords))


def drawn(query, sample, channels, side, shape, seed=7):
    """The two windows of one sample as slices, whether the first lies on its side, and the signs of its channels."""
    blocks = (query << 16) + torch.arange(1 + -(-channels // 128))
    words = philox(torch.tensor(seed), blocks[None], torch.tensor([sample]))[0].tolist()
    corners = [word * (room - side) >> 32 for word, room in zip(words[0], (*shape, *shape), strict=True)]
    windows = [
        (slice(None), slice(top, top + side), slice(left, left + side))
        for top, left in zip(corners[::2], corners[1::2], strict=True)
    ]
    colours = [word for block in words[1:] for word in block]
    signs = [1.0 - 2 * (colours[channel // 32] >> channel % 32 & 1) for channel in range(channels)]
    return windows, bool(words[0][0] & 1), torch.tensor(signs, dtype=torch.float64)


def expected(x, x0, query, norm, eps, bounds):
    """The published proposal, a sample and a channel at a time."""
    low, high = bounds or (-math.inf, math.inf)
    channels, *shape = x.shape[1:]
    found = x.clone()
    for sample, number in enumerate(query.tolist()):
        side = sides(*shape, norm)[LEVELS[QUERIES.index(number)]]
        (window, other), turned, signs = drawn(number, sample, channels, side, shape)
        if norm == "linf":
            moved = x[sample] + 2 * eps * signs[:, None, None]
            moved = torch.minimum(torch.maximum(moved, x0[sample] - eps), x0[sample] + eps).clamp(low, high)
            found[sample][window] = moved[window]
            continue
        delta = x[sample] - x0[sample]
        tile = bump(side, norm)
        both = torch.zeros_like(delta, dtype=torch.bool)
        both[window] = both[other] = True
        whole = delta.norm(ORDER[norm])
        found[sample][other] = x0[sample][other]
        for channel in range(channels):
            patch = signs[channel] * (tile.T if turned else tile)
            old = delta[channel][window[1:]]
            patch = patch + old / (old.norm(ORDER[norm]) + 1e-12)
            spent = delta[channel][both[channel]].norm(ORDER[norm])
            if norm == "l2":
                length = ((eps**2 - whole**2) / channels + spent**2).clamp(min=0).sqrt()
            else:
                length = ((eps - whole).clamp(min=0) / channels + spent) * channels
            moved = x0[sample, channel][window[1:]] + patch / (patch.norm(ORDER[norm]) + 1e-12) * length
            found[sample, channel][window[1:]] = moved.clamp(low, high) if norm == "l2" else moved
    return found


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.2, 0.7), None])
@pytest.mark.parametrize("norm", RADII)
def test_the_published_windows_and_colours(norm, bounds, backend):
    x, x0, query = images(norm)
    if bounds is not None:
        x, x0 = (t.clamp(*bounds) for t in (x, x0))
    found = propose(x, x0, query, norm, bounds=bounds)
    assert_within(norm, found, expected(x, x0, query, norm, RADII[norm], bounds))
    assert not torch.equal(found, x)


@pytest.mark.parametrize("norm", RADII)
def test_signs_of_more_channels_than_a_block_has(norm, backend):
    x, x0, query = images(norm, size=(2, 131, 4, 6))
    assert_within(norm, propose(x, x0, query, norm), expected(x, x0, query, norm, RADII[norm], (0.0, 1.0)))


@pytest.mark.parametrize("norm", RADII)
def test_the_budget(norm, backend):
    """Held in float64: by linf and l2 as they are, by l1 after the projection that follows, as published."""
    x, x0, query = images(norm)
    for turn in range(6):
        x = propose(x, x0, query + turn, norm)
        if norm == "l1":
            x = fastadv.project(x, x0, eps=RADII[norm], norm=norm)
        assert ((x - x0).flatten(1).norm(ORDER[norm], dim=1) <= RADII[norm] * (1 + 1e-12)).all()
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.parametrize(("norm", "channels"), [("l2", 3), ("l1", 1)])
def test_all_of_the_budget_is_spent_where_the_box_leaves_it(norm, channels, backend):
    """Nothing is lost where windows meet; of several channels l1 spends more, which its projection takes back."""
    x, x0, query = images(norm, size=(8, channels, 12, 9))
    found = propose(x, x0, query, norm, bounds=None)
    lengths = (found - x0).flatten(1).norm(ORDER[norm], dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, RADII[norm]), atol=0, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", RADII)
def test_a_proposal_is_its_samples_own(norm, dtype, backend):
    """The same to the bit alone, in a batch, in another order and beside other samples."""
    x, x0, query = images(norm, dtype)
    ids = torch.tensor([5, 0, 3, (1 << 32) + 3, 2**62, 7, 6, 1])
    whole = propose(x, x0, query, norm, sample_ids=ids)
    order = torch.tensor([3, 7, 0, 6, 1, 5, 2, 4])
    assert torch.equal(propose(x[order], x0[order], query[order], norm, sample_ids=ids[order]), whole[order])
    for sample in (0, 3, 6):
        one = slice(sample, sample + 1)
        assert torch.equal(propose(x[one], x0[one], query[one], norm, sample_ids=ids[one]), whole[one])
    for changed in ({"sample_ids": ids + 1}, {"seed": 8, "sample_ids": ids}):
        assert not torch.equal(propose(x, x0, query, norm, **changed), whole)
    assert not torch.equal(propose(x, x0, query + 10**6, norm, sample_ids=ids), whole)


@pytest.mark.parametrize("norm", RADII)
def test_other_forms_of_an_argument(norm, backend):
    x, x0, query = images(norm, torch.float32)
    whole = propose(x, x0, query, norm)
    for same in (
        {"sample_ids": torch.arange(8)},
        {"seed": torch.tensor(7)},
        {"eps": torch.full([8], RADII[norm])},
        {"eps": torch.full([8], RADII[norm]), "seed": torch.tensor(7), "sample_ids": torch.arange(8)},
    ):
        # A float radius is not rounded to float32.
        torch.testing.assert_close(propose(x, x0, query, norm, **same), whole, atol=1e-6, rtol=0)
    assert torch.equal(propose(x, x0, query, norm, seed=2**64 - 1), propose(x, x0, query, norm, seed=-1))


@pytest.mark.parametrize("norm", RADII)
def test_a_radius_of_each_sample(norm, backend):
    x, x0, query = images(norm)
    radii = RADII[norm] * torch.linspace(1, 2, 8, dtype=torch.float64)
    found = propose(x, x0, query, norm, eps=radii)
    for sample, radius in enumerate(radii.tolist()):
        one = slice(sample, sample + 1)
        alone = propose(x[one], x0[one], query[one], norm, eps=radius, sample_ids=torch.tensor([sample]))
        torch.testing.assert_close(found[one], alone, atol=1e-14, rtol=0)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("size", [(4, 3, 1, 1), (4, 1, 1, 5), (4, 2, 6, 1), (4, 3, 2, 2)])
def test_images_smaller_than_a_window(norm, size, backend):
    """Every pixel is changed where the window is the whole image; nothing leaves ball and box."""
    draw = Draw(torch.float64, 2)
    x0 = 0.3 + 0.4 * draw.pixels(size)
    found = propose(x0, x0, torch.zeros(size[0], dtype=torch.int64), norm)
    if min(size[2:]) == sides(*size[2:], norm)[0] == max(size[2:]):
        assert (found != x0).all()
    assert (found != x0).flatten(1).any(1).all()
    if norm != "l1":
        assert ((found - x0).flatten(1).norm(ORDER[norm], dim=1) <= RADII[norm] * (1 + 1e-12)).all()
    assert found.isfinite().all()


def test_no_window_touches_the_last_row_or_column_but_one_that_fills_the_image(backend):
    x0 = torch.full([40, 1, 3, 4], 0.5)
    for number, side in ((0, 3), (8001, 1)):
        moved = propose(x0, x0, torch.full([40], number), "linf") != x0
        assert moved.flatten(1).sum(1).unique().tolist() == [side**2]
        # Every other place is drawn.
        reached = torch.zeros(1, 3, 4, dtype=torch.bool)
        reached[:, : 3 if side == 3 else 2, :3] = True
        assert torch.equal(moved.any(0), reached)


@pytest.mark.parametrize("norm", RADII)
def test_a_radius_of_zero_and_no_samples(norm, backend):
    x, x0, query = images(norm)
    torch.testing.assert_close(propose(x0, x0, query, norm, eps=0.0), x0, atol=0, rtol=0)
    empty = propose(x[:0], x0[:0], query[:0], norm)
    assert empty.shape == (0, 3, 12, 9)
    assert empty.dtype == torch.float64


@pytest.mark.parametrize("norm", RADII)
def test_what_is_given_stays_as_it_is(norm, backend):
    x, x0, query = images(norm, torch.float32)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = [t.contiguous(memory_format=layout) for t in (x, x0)]
        kept = [t.clone() for t in given]
        found = propose(*given, query, norm)
        assert found.is_contiguous(memory_format=layout)
        # The draws are the same; norms are added up in another order.
        torch.testing.assert_close(found, propose(x, x0, query, norm), atol=1e-6, rtol=0)
        assert all(torch.equal(t, before) for t, before in zip(given, kept, strict=True))


def test_tables_of_fake_tensors_are_not_kept():
    """They are their mode's alone: a later call would be given them, or mix them with its own."""
    kept = _tables.cache_info().currsize
    for _ in range(2):
        with FakeTensorMode():
            # A query on the CPU would be read.
            x, query = torch.empty(2, 3, 7, 9, device="cuda"), torch.zeros(2, dtype=torch.int64, device="cuda")
            assert fastadv.square_propose(x, x, query, eps=0.1, norm="l2").shape == x.shape
    assert _tables.cache_info().currsize == kept


def test_what_a_graph_points_to_outlives_the_shapes_of_later_calls():
    """A CUDA graph holds addresses of the tables, not the tables."""
    held = [weakref.ref(table) for table in _tables(8, 9, "l2", False, torch.device("cpu")) if table is not None]
    for height in range(10, 110):
        _tables(height, 9, "l2", False, torch.device("cpu"))
    assert all(table() is not None for table in held)
