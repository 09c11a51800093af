"""Errors of the compiled ops for those who call them past the public functions."""

from __future__ import annotations

import pytest
import torch

from tests.ops.available import require_backend, require_on_cpu

OPS = torch.ops.fastadv
X = torch.full([2, 3], 0.5)
IMAGES = torch.zeros(2, 3, 4, 4)
NONE = torch.zeros(2, dtype=torch.int64)
PARTICLES = X[:, None].contiguous()


def overload(op, backend):
    require_on_cpu(backend)
    return op.triton if backend == "triton" else op.default


@pytest.mark.parametrize("code", [-1, 3])
@pytest.mark.parametrize(
    "call",
    [
        lambda norm: OPS.project(X, X, 0.1, norm),
        lambda norm: OPS.random_start(X, 0.1, norm),
        lambda norm: OPS.project_hyperplane(X, X, X[:, 0].contiguous(), norm),
        lambda norm: OPS.square_propose(IMAGES, IMAGES, NONE, NONE, NONE[:1], 0.1, norm),
        lambda norm: OPS.pgd_step(X, X, X, 0.1, 0.1, norm),
        lambda norm: OPS.momentum_step(X, X, X, X, 0.1, 0.1, norm),
        lambda norm: OPS.svgd_step(PARTICLES, PARTICLES, X, 0.1, 0.1, norm),
    ],
    ids=["project", "random_start", "project_hyperplane", "square_propose", "pgd_step", "momentum_step", "svgd_step"],
)
def test_a_norm_that_is_none(call, code):
    require_backend("cpu")
    with pytest.raises(ValueError, match="norm must be 0"):
        call(code)


@pytest.mark.parametrize("code", [-1, 3])
def test_an_update_that_is_none(code):
    require_backend("cpu")
    with pytest.raises(ValueError, match="update must be 0"):
        OPS.svgd_step(PARTICLES, PARTICLES, X, 0.1, 0.1, update=code)


@pytest.mark.parametrize(
    "x",
    [torch.rand(1, 8)[:, ::2], torch.rand(1, 1, 4).expand(1, 2, 4), torch.rand(1, 2, 6)[:, :, :3]],
    ids=["with gaps", "over one another", "a part of each row"],
)
def test_one_sample_that_is_no_contiguous_run(x):
    require_backend("cpu")
    with pytest.raises(ValueError, match="expected each sample to be a contiguous run"):
        OPS.project(x, x, 0.1)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize(
    "x",
    [torch.rand(2, 3, 4, 5).transpose(2, 3), torch.rand(2, 5, 4, 3).permute(0, 3, 2, 1), torch.rand(2, 4, 3, 5, 2).mT],
    ids=["rows within columns", "pixels column by column", "volumes"],
)
def test_a_layout_in_which_the_noise_would_be_that_of_other_elements(x, backend):
    start, propose = (overload(op, backend) for op in (OPS.random_start, OPS.square_propose))
    with pytest.raises(ValueError, match="expected a contiguous or channels_last tensor"):
        start(x, 0.1)
    if x.dim() == 4:
        with pytest.raises(ValueError, match="expected a contiguous or channels_last tensor"):
            propose(x, x, NONE, NONE, NONE[:1] + 1, 0.1)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 2), (2, 3, 7), (2, 3, 1, 5), (2, 1, 4, 5)], ids=str)
def test_noise_pixel_by_pixel_is_that_channel_by_channel(shape, backend):
    x = torch.rand(shape)
    by_pixel = x.movedim(1, -1).contiguous().movedim(-1, 1)
    start = overload(OPS.random_start, backend)
    assert torch.equal(start(by_pixel, 0.1), start(x, 0.1))


# On a device sides are not read before a kernel reads them.
@pytest.mark.parametrize(("norm", "most"), [(0, 4), (1, 4), (1, 2)])
def test_a_window_on_a_device_that_does_not_fit_is_the_nearest_that_does(norm, most):
    propose, bumps = overload(OPS.square_propose, "triton"), torch.rand(1, most, most) if norm else None
    for side, nearest in ((-3, 1), (0, 1), (most + 1, most), (2**40, most)):
        found, expected = (
            propose(IMAGES, IMAGES, NONE, NONE, torch.tensor([k]), 0.1, norm, bumps=bumps) for k in (side, nearest)
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("side", [-1, 0, 5])
def test_a_window_that_does_not_fit_the_image(side):
    require_backend("cpu")
    with pytest.raises(ValueError, match=rf"sides must lie in \[1, 5\), got {side} at position 1"):
        OPS.square_propose(IMAGES, IMAGES, NONE, NONE, torch.tensor([4, side]), 0.1)


def test_a_window_that_is_larger_than_its_bump():
    require_backend("cpu")
    with pytest.raises(ValueError, match=r"sides must lie in \[1, 3\), got 3 at position 0"):
        OPS.square_propose(IMAGES, IMAGES, NONE, NONE, torch.tensor([3]), 0.1, 1, bumps=torch.zeros(1, 2, 2))


# Of no samples, so that nothing would be read where it is not refused.
E, P, L = torch.zeros(0, 3), torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64)
V = E[:, 0].contiguous()
SIDES = torch.ones(1, dtype=torch.int64)
LOSS = (1.0, False)

# The op, its arguments, which of them lies elsewhere, and how the error calls it.
ELSEWHERE = [
    ("project", (E, E, 0.1), 1, "tensors on one device"),
    ("pgd_step", (E, E, E, 0.1, 0.1), 1, "tensors on one device"),
    ("project", (E, E, 0.1, 0, 0.0, 1.0, True, V), 7, "eps_n"),
    ("random_start", (E, 0.1, 0, 0.0, 1.0, 0, V), 6, "eps_n"),
    ("random_start", (E, 0.1, 0, 0.0, 1.0, 0, None, SIDES[0]), 7, "seed_t"),
    ("random_start", (E, 0.1, 0, 0.0, 1.0, 0, None, None, L), 8, "sample_ids"),
    ("project_hyperplane", (E, E, V), 2, "offset"),
    ("square_propose", (P, P, L, L, SIDES, 0.1), 2, "query"),
    ("square_propose", (P, P, L, L, SIDES, 0.1), 3, "level"),
    ("square_propose", (P, P, L, L, SIDES, 0.1), 4, "sides"),
    ("square_propose", (P, P, L, L, SIDES, 0.1, 1, 0.0, 1.0, 0, torch.ones(1, 1, 1)), 10, "bumps"),
    ("momentum_step", (E, E, E, E, 0.1, 0.1, 0, 0.0, 1.0, 0.05, 1.0, None, V), 12, "step_size_n"),
    ("bss_step", (E, E, V, V > 0, 0.1), 2, "gap"),
    ("bss_step", (E, E, V, V > 0, 0.1), 3, "active"),
    ("svgd_step", (E[:, None], E[:, None], E, 0.1, 0.1), 2, "x0"),
    ("kl_distill", (E, E, 1.0, *LOSS, False, False, V), 7, "weight"),
    ("loss_matching", (E, E, L, *LOSS), 2, "target"),
    ("attack_loss", (torch.zeros(0, 4), L, 3, *LOSS, False, L), 6, "reference"),
    ("triplet_margin_loss", (E, E, E, 1.0, 2.0, 1e-6, False, *LOSS, False, False, False, V), 12, "margin_n"),
    ("activation_boundary_loss", (E, E, 1.0, *LOSS, False, V), 6, "margin_n"),
    ("rkd_loss", (E, E, 1.0, 1.0), 1, "teacher"),
    ("mix", (E, 0.5, L), 2, "permutation"),
    ("mix", (E, 0.5, L, V), 3, "lam_n"),
    ("scale_grad", (E, V, torch.float32), 1, "grad_output"),
]


@pytest.mark.parametrize(
    ("op", "arguments", "at", "name"), ELSEWHERE, ids=[f"{op}-{name}" for op, *_, name in ELSEWHERE]
)
def test_a_tensor_on_another_device(op, arguments, at, name):
    require_backend("cpu")
    elsewhere = [x.to("meta") if k == at else x for k, x in enumerate(arguments)]
    compiled = getattr(OPS, op).default
    # As the dispatcher calls it where this device comes before the other.
    on_cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    compiled.redispatch(on_cpu, *arguments)
    with pytest.raises(ValueError, match=f"expected {name}"):
        compiled.redispatch(on_cpu, *elsewhere)
