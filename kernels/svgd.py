"""One step of Stein variational gradient descent on the particles of each image: svgd_step.

All pairs of an image's n particles need two n x n matrices: squared distances, and, to bring both terms of the step to
equal size, the scores' products. Neither term's size needs the terms themselves: with the distances d,
``(x_i - x_j).(x_i - x_k) = (d_ij^2 + d_ik^2 - d_jk^2) / 2``.

Where n D is small, ``update`` does it all, a program an image: it reads particles and scores twice (the second time
from the cache) and writes particles once. Where it is large, ``pair_sums`` comes first, a program a (image, share of
the coordinates), and writes its share of the matrices; ``update`` then has a program for each share as well. A step or
a ball that needs an l2 norm leaves phi in memory and is finished by :mod:`fastadv.kernels.move`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.geometry import LINF, UNIT, displacement, project_linf
from fastadv.kernels.launch import accumulator, block, launch
from fastadv.kernels.move import move
from fastadv.kernels.numerics import bits, divide, narrow, per_sample, scalar, shrinkage, square, square_root, widen
from fastadv.kernels.parts import check_places

# Blocks of an image's particles that one program takes alone, and the blocks of a share where there are more.
_ALONE = 16
_SHARE = 8
# Numbers of a tile, at most, as Triton's compiler has it.
_LARGEST_TILE = 2**20


def svgd_step(
    particles: Tensor,
    score: Tensor,
    x0: Tensor,
    eps: float,
    step_size: float,
    norm: int,
    low: float,
    high: float,
    bandwidth: float | None,
    update_rule: int,
    score_scale: float | None,
    eps_n: Tensor | None,
    step_size_n: Tensor | None,
) -> Tensor:
    """Launcher of :func:`fastadv.svgd_step`."""
    images, count = particles.shape[:2]
    elements = math.prod(particles.shape[2:])
    check_places(elements)
    out = torch.empty_like(particles)
    if out.numel() == 0:
        return out
    rows = triton.next_power_of_2(count)
    if rows * rows > _LARGEST_TILE:
        raise ValueError(f"particles must be at most {math.isqrt(_LARGEST_TILE)} an image for Triton, got {count}")
    columns = max(block(rows * elements, particles) // rows, 32)
    tile = max(rows * columns, rows * rows)
    alone = elements <= _ALONE * columns
    share = elements if alone else _SHARE * columns
    shares = triton.cdiv(elements, share)
    constants = {"COUNT": count, "ROWS": rows, "BLOCK": columns, "RMS": score_scale is None}
    matrices = None
    if not alone:
        matrices = particles.new_empty([images, shares, 2, rows, rows], dtype=accumulator(particles))
        sizes = (elements, share, shares)
        launch(pair_sums, images * shares, particles, score, matrices, *sizes, elements=tile, **constants)
    finish = norm == LINF.value and update_rule != UNIT.value
    phi = out if finish else torch.empty_like(particles, dtype=accumulator(particles))
    precision = 0.0 if bandwidth is None else (1.0 / bandwidth) ** 2
    launch(
        update,
        images * shares,
        particles,
        score,
        x0,
        matrices,
        phi,
        eps,
        eps_n,
        step_size,
        step_size_n,
        low,
        high,
        precision,
        1.0 if score_scale is None else score_scale,
        2 * math.log(count + 1),
        elements,
        share,
        shares,
        elements=tile,
        MEDIAN=bandwidth is None,
        FINISH=finish,
        UPDATE=update_rule,
        **constants,
    )
    if not finish:
        x, direction, moved = particles.flatten(0, 1), phi.flatten(0, 1), out.flatten(0, 1)
        ball = (norm, low, high)
        step = (eps, eps_n, step_size, step_size_n)
        move(x, direction, x0, moved, *step, *ball, ascent=update_rule, exact=True, particles=count)
    return out


@triton.jit
def pair_sums(
    particles_ptr,
    score_ptr,
    matrices_ptr,
    elements,
    share,
    shares,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    RMS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    image = program // shares
    first = (program % shares).to(tl.int32) * share
    last = tl.minimum(first + share, elements)
    particles_ptr += image * COUNT * elements
    entry = tl.arange(0, ROWS)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    matrices_ptr += program * 2 * ROWS * ROWS
    tl.store(matrices_ptr + entry, _pairs(particles_ptr, first, last, elements, True, COUNT, ROWS, BLOCK))
    if RMS:
        score_ptr += image * COUNT * elements
        products = _pairs(score_ptr, first, last, elements, False, COUNT, ROWS, BLOCK)
        tl.store(matrices_ptr + ROWS * ROWS + entry, products)


@triton.jit
def update(
    particles_ptr,
    score_ptr,
    x0_ptr,
    matrices_ptr,
    out_ptr,
    eps: tl.float64,
    eps_ptr,
    step_size: tl.float64,
    step_size_ptr,
    low: tl.float64,
    high: tl.float64,
    precision: tl.float64,
    score_scale: tl.float64,
    median_factor: tl.float64,
    elements,
    share,
    shares,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    RMS: tl.constexpr,
    MEDIAN: tl.constexpr,
    FINISH: tl.constexpr,
    UPDATE: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    image = program // shares
    first = (program % shares).to(tl.int32) * share
    last = tl.minimum(first + share, elements)
    particles_ptr += image * COUNT * elements
    score_ptr += image * COUNT * elements
    out_ptr += image * COUNT * elements
    x0_ptr += image * elements
    i = tl.arange(0, ROWS)
    rows, columns = i[:, None], i[None, :]

    distances = widen(tl.zeros([ROWS, ROWS], particles_ptr.dtype.element_ty))
    products = distances
    if matrices_ptr is None:
        distances = _pairs(particles_ptr, first, last, elements, True, COUNT, ROWS, BLOCK)
        if RMS:
            products = _pairs(score_ptr, first, last, elements, False, COUNT, ROWS, BLOCK)
    else:
        matrices_ptr += image * shares * 2 * ROWS * ROWS
        for part in range(0, shares):
            matrix = matrices_ptr + part * 2 * ROWS * ROWS + rows * ROWS + columns
            distances += tl.load(matrix)
            if RMS:
                products += tl.load(matrix + ROWS * ROWS)

    among = (rows < COUNT) & (columns < COUNT)
    distances = tl.where(among, distances, 0.0)
    inverse_variance = scalar(precision, distances)
    if MEDIAN:
        inverse_variance = _median_rule(distances, median_factor, COUNT, ROWS)
    kernel = tl.where(among, tl.exp(-0.5 * distances * inverse_variance), 0.0)
    pull = kernel * inverse_variance
    attraction = scalar(score_scale, distances)
    if RMS:
        multiplied = scalar(1.0, distances)
        most = tl.max(tl.max(tl.where(rows == columns, products, 0.0), 1), 0)
        shrink, stretch = shrinkage(distances)
        if (most <= shrink) | (most >= stretch):
            # The products underflow or overflow: once more, of all the image's scores times a power of two.
            multiplied = _to_one(_largest(score_ptr, elements, COUNT, ROWS, BLOCK))
            products = _pairs(score_ptr, 0, elements, elements, False, COUNT, ROWS, BLOCK, multiplied)
        attraction = _equalising_scale(kernel, pull, distances, products, COUNT, ROWS, multiplied)

    zeros = widen(tl.zeros([ROWS, BLOCK], particles_ptr.dtype.element_ty))
    radius = per_sample(eps, eps_ptr, image, None, zeros)
    size = per_sample(step_size, step_size_ptr, image, None, zeros)
    for start in range(first, last, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < last
        offset = i.to(tl.int64)[:, None] * elements + column[None, :]
        mask = (rows < COUNT) & inside[None, :]
        x = widen(tl.load(particles_ptr + offset, mask, other=0))
        phi = zeros
        score_j_ptr, x_j_ptr = score_ptr + column, particles_ptr + column
        for j in range(0, COUNT):
            score_j = widen(tl.load(score_j_ptr, inside, other=0))
            x_j = widen(tl.load(x_j_ptr, inside, other=0))
            score_j_ptr += elements
            x_j_ptr += elements
            k_j = tl.sum(tl.where(columns == j, kernel, 0.0), 1)[:, None]
            pull_j = tl.sum(tl.where(columns == j, pull, 0.0), 1)[:, None]
            phi += attraction * k_j * score_j[None, :] + pull_j * (x - x_j[None, :])
        phi = divide(phi, scalar(COUNT, zeros))
        if FINISH:
            x0 = widen(tl.load(x0_ptr + column, inside, other=0))[None, :]
            moved = x + displacement(phi, size, 1.0, UPDATE)
            phi = project_linf(moved, x0, radius, scalar(low, zeros), scalar(high, zeros), True)
        tl.store(out_ptr + offset, narrow(phi, out_ptr.dtype.element_ty), mask)


@triton.jit
def _largest(ptr, elements, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Largest magnitude among all vectors."""
    i = tl.arange(0, ROWS)
    most = widen(tl.zeros([ROWS, BLOCK], ptr.dtype.element_ty))
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        offset = i.to(tl.int64)[:, None] * elements + column[None, :]
        inside = (i < COUNT)[:, None] & (column < elements)[None, :]
        most = tl.maximum(most, tl.abs(widen(tl.load(ptr + offset, inside, other=0))))
    return tl.max(tl.max(most, 1), 0)


@triton.jit
def _to_one(number):
    """Power of two that brings ``number`` near 1 and is no subnormal number; 1 for zero, infinity and NaN."""
    if number.dtype == tl.float64:
        digits, twice_bias = 52, 2046
    else:
        digits, twice_bias = 23, 254
    word = tl.maximum(twice_bias - (bits(number) >> digits), 1) << digits
    some = (number > 0) & (number < float("inf"))
    return tl.where(some, word.to(number.dtype, bitcast=True), 1.0)


@triton.jit
def _pairs(
    ptr,
    first,
    last,
    elements,
    DISTANCE: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    multiplied=None,
):
    """[ROWS, ROWS] squared distances, or products, of all pairs of vectors, over the coordinates first to last.

    ``multiplied`` is what the vectors are multiplied by.

    Distances are summed from the differences: by way of the products they would drown in rounding.
    """
    i = tl.arange(0, ROWS)
    sums = widen(tl.zeros([ROWS, ROWS], ptr.dtype.element_ty))
    for start in range(first, last, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < last
        offset = i.to(tl.int64)[:, None] * elements + column[None, :]
        vectors = widen(tl.load(ptr + offset, (i < COUNT)[:, None] & inside[None, :], other=0))
        if multiplied is not None:
            vectors *= multiplied
        vector_ptr = ptr + column
        for j in range(0, COUNT):
            vector = widen(tl.load(vector_ptr, inside, other=0))[None, :]
            if multiplied is not None:
                vector *= multiplied
            vector_ptr += elements
            terms = square(vectors - vector) if DISTANCE else vectors * vector
            sums += tl.where(i[None, :] == j, tl.sum(terms, 1)[:, None], 0.0)
    return sums


@triton.jit
def _median_rule(distances, median_factor, COUNT: tl.constexpr, ROWS: tl.constexpr):
    """2 log(n + 1) / med^2, with med^2 the lower median of the squared distances i < j; 0 where that is 0 or NaN.

    Floats that are not negative are ordered as their bits are, so bisection on the bits finds the median exactly.
    """
    rank = (COUNT * (COUNT - 1) // 2 - 1) // 2
    i = tl.arange(0, ROWS)
    pairs = (i[:, None] < i[None, :]) & (i[None, :] < COUNT)
    keys = bits(distances)
    at_least = tl.full((), 0, keys.dtype)
    at_most = bits(scalar(float("inf"), distances))
    while at_least < at_most:
        middle = at_least + (at_most - at_least) // 2
        enough = tl.sum(tl.sum((pairs & (keys <= middle)).to(tl.int32), 1), 0) > rank
        at_most = tl.where(enough, middle, at_most)
        at_least = tl.where(enough, at_least, middle + 1)
    median = at_most.to(distances.dtype, bitcast=True)
    invalid = tl.sum(tl.sum((pairs & (distances != distances)).to(tl.int32), 1), 0)
    return tl.where((median > 0) & (invalid == 0), divide(scalar(median_factor, distances), median), 0.0)


@triton.jit
def _equalising_scale(kernel, pull, distances, products, COUNT: tl.constexpr, ROWS: tl.constexpr, multiplied):
    """Factor that brings attraction to the root mean square of repulsion; 1 where either is zero.

    ``products`` are those of the scores times ``multiplied``.
    """
    i = tl.arange(0, ROWS)
    attraction, repulsion = tl.zeros_like(kernel), tl.zeros_like(kernel)
    for particle in range(0, COUNT):
        # The matrices are symmetric: a column is a row.
        k = tl.sum(tl.where(i[None, :] == particle, kernel, 0.0), 1)
        p = tl.sum(tl.where(i[None, :] == particle, pull, 0.0), 1)
        d = tl.sum(tl.where(i[None, :] == particle, distances, 0.0), 1)
        attraction += k[:, None] * k[None, :] * products
        repulsion += p[:, None] * p[None, :] * (d[:, None] + d[None, :] - distances)
    pulled = tl.sum(tl.sum(attraction, 1), 0)
    pushed = 0.5 * tl.sum(tl.sum(repulsion, 1), 0)
    scale = divide(square_root(pushed), square_root(pulled)) * multiplied
    # Of scores that are all but zero it would be infinite.
    most = bits(scalar(float("inf"), scale)) - 1
    scale = tl.minimum(scale, most.to(scale.dtype, bitcast=True))
    return tl.where((pulled > 0) & (pushed > 0), scale, 1.0)
