"""Random search by windows, which asks the network for nothing but its logits: square."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.configured import Attack
from fastadv.attacks.loop.arguments import clean_images, count
from fastadv.attacks.loop.image_search import search_correct
from fastadv.attacks.loop.judging import Judge
from fastadv.attacks.loop.noise import Noise, resolve
from fastadv.attacks.loop.row_queue import Begun, State, rows_in_a_pass
from fastadv.attacks.loop.rows import choose, repeat_rows
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.near_misses import answers_near_misses
from fastadv.ops import checks
from fastadv.ops.attack_loss import attack_loss
from fastadv.ops.ball import project, random_start
from fastadv.ops.square import bump, square_propose

# Tiles a side of the l2 and l1 start, where the image divides.
_TILES = 5
# Of the radius, so that rounding does not carry an image out of the l1 ball; as published.
_INSIDE = 1 - 1e-6
# Proposals of a row in a pass at most: those after the first that is better are lost.
_AHEAD = 16


@answers_near_misses
def square(
    model: Network,
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    queries: int = 5000,
    restarts: int = 1,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 250,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    check: bool | None = None,
) -> Tensor:
    """Square Attack: random windows of the perturbation, of which those stay that bring the network nearer to an error.

    The start is vertical stripes of +-eps for linf, for l2 and l1 a tiling of small bumps of random sign. A query
    changes one window at a random place, see :func:`fastadv.square_propose`; it stays where the margin
    ``z_y - max_{j != y} z_j`` falls. An image leaves with the first misclassified one. No gradient is asked for: the
    model may be any callable, and one that hides its gradients is attacked as any other.

    The published code draws one window a query for the whole batch; here each image has its own, from its identity, the
    seed and the number of the query, so its search is the same in any batch. After each pass it asks which images have
    fallen, for which the host waits. Nothing of the caller's changes, see :func:`fastadv.attacks.pgd`.

    Args:
        model: one network, see :func:`fastadv.attacks.pgd`.
        x: clean images [N, C, H, W], float64, float32, bfloat16 or float16; need not be as high as wide.
        y: their classes [N], int64; None is the model's own clean prediction. Images of which the model says another
            class are returned as they are.
        eps: radius in the units of x, a float or [N].
        norm: "linf", "l2" or "l1".
        queries: after the start, at most. The windows shrink after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of
            them, whatever their number.
        restarts: searches an image, each of which only those make that still stand.
        bounds: (low, high), or None for no box.
        batch_size: images in a pass at most, on a CPU 16 a thread but 32 at least where that is less, and twice as many
            in half precision: more take longer, or more memory. An image that fell makes room for the next; where few
            are left, a pass has several queries of each.
        seed, sample_ids: of all draws, see :func:`fastadv.attacks.pgd`.
        check: see :func:`fastadv.attacks.pgd`.

    Returns:
        Misclassified images where there was one, elsewhere the clean ones, of the shape of x; float32, or float64 for a
        float64 x.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape, device or value is wrong, unknown norm, x are no images [N, C, H, W].

    Source: Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial attack via
    random search", ECCV 2020; for l1 Croce, Hein, "Mind the box", ICML 2021.
    """
    networks = Networks(model, check)
    if networks.together:
        raise ValueError("model must be one network, got a sequence")
    x = clean_images(x, bounds, check)
    if x.dim() != 4:
        raise ValueError(f"x must be images [N, C, H, W] for square, whose windows have two sides, got {list(x.shape)}")
    checks.radius("eps", eps, x)
    checks.choice("norm", norm, checks.NORMS)
    checks.box(bounds)
    count("queries", queries, 0)
    count("restarts", restarts, 1)
    noise = Noise(seed, sample_ids)
    noise.check(x)
    with no_trace(networks.members):
        judge = Judge(networks, x, y, batch_size=count("batch_size", batch_size, 1))
        wide = rows_in_a_pass(batch_size, x.device, judge.logits.dtype)
        search = SquareSearch(networks, norm=norm, bounds=bounds, queries=queries, rows=wide, seed=resolve(noise.seed))
        rows: dict[str, Any] = {"copies": restarts, "targets": None, "batch_size": wide}
        return search_correct(search, judge, x, eps=eps, sample_ids=sample_ids, **rows)


class SQUARE(
    Attack, function=square, own_checks={"queries": partial(count, least=0), "batch_size": partial(count, least=1)}
):
    """:func:`fastadv.attacks.square`, configured once: ``SQUARE(eps=8 / 255, queries=1000)(model, x, y)``."""


class SquareSearch:
    """The search of "square".

    Where a pass has room, it shows the network several proposals of a row at once, those of its next queries from the
    best point so far. The first that is better counts, and those after it are as if they had never been: the search is
    the same as one by one. Most proposals fail, and a pass of few rows leaves a processor half idle.

    Args:
        networks: what is attacked.
        norm, bounds: of the ball and the box.
        queries: a row makes after its start.
        rows: of a pass, which several proposals of each row fill where there are fewer.
        seed: of all draws.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        norm: str,
        bounds: tuple[float, float] | None,
        queries: int,
        rows: int,
        seed: int | Tensor,
    ) -> None:
        self._networks = networks
        self._norm, self._bounds, self._seed = norm, bounds, seed
        self._rows = rows
        self.evaluations = queries + 1
        self.made: int | Tensor = 1

    def begin(self, rows: Begun) -> State:
        return {
            "x": self._start(rows),
            "x0": rows.x0,
            "y": rows.y,
            "eps": rows.eps,
            "ids": rows.ids,
            "margin": torch.full_like(rows.eps, math.inf),
            "made": torch.zeros_like(rows.y),
        }

    def evaluate(self, state: State) -> Tensor:
        samples = len(state["x"])
        ahead = min(max(self._rows // samples, 1), _AHEAD)
        # Query k is evaluation k + 1, after that of the start.
        number = (state["made"][:, None] + torch.arange(ahead, device=state["made"].device)).flatten()
        x, x0, y, eps, ids = (repeat_rows(state[name], ahead) for name in ("x", "x0", "y", "eps", "ids"))
        ball: dict[str, Any] = {"eps": eps, "norm": self._norm, "bounds": self._bounds}
        proposed = square_propose(x, x0, (number - 1).clamp(min=0), **ball, seed=self._seed, sample_ids=ids)
        x = choose(number > 0, self._within(proposed, x0, eps), x)
        with torch.no_grad():
            logits = self._networks.logits(x)
            margin = -attack_loss(logits, y, kind="cw").to(eps.dtype)
        falls = (margin < repeat_rows(state["margin"], ahead)) | (margin <= 0)
        falls = (falls & (number < self.evaluations)).view(samples, ahead)
        found, first = falls.any(1), falls.int().argmax(1)
        at = torch.arange(samples, device=first.device) * ahead + first
        state["x"] = choose(found, x[at], state["x"])
        state["margin"] = torch.where(found, margin[at], state["margin"])
        self.made = torch.where(found, first + 1, (self.evaluations - state["made"]).clamp(max=ahead))
        state["made"] = state["made"] + self.made
        return found & (logits.argmax(1) != y)[at]

    def step(self, state: State) -> None:
        """Nothing: the next evaluation proposes."""

    def _within(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """Projection of a proposal: for l1 a part of it, for l2 it takes back what rounding may have added."""
        if self._norm == "linf":
            return x
        return project(x, x0, eps=eps * _INSIDE if self._norm == "l1" else eps, norm=self._norm, bounds=self._bounds)

    def _start(self, rows: Begun) -> Tensor:
        samples, channels, height, width = rows.x0.shape
        low, high = self._bounds or (-math.inf, math.inf)
        eps = rows.eps.view(-1, 1, 1, 1)
        if self._norm == "linf":
            stripes = self._signs(rows, [channels, 1, width])
            return (rows.x0 + eps * stripes).clamp(low, high)
        side = max(min(height, width) // _TILES, 1)
        down, across = height // side, width // side
        tile = bump(side, self._norm).to(rows.x0)
        signs = self._signs(rows, [channels + 1, down, across])
        # The last channel of signs says which way round a tile lies.
        signs, turned = signs[:, :channels, :, None, :, None], signs[:, channels:, :, None, :, None] < 0
        tiles = signs * torch.where(turned, tile.T[:, None], tile[:, None])
        top, left = (height - down * side) // 2, (width - across * side) // 2
        delta = torch.zeros_like(rows.x0)
        delta[:, :, top : top + down * side, left : left + across * side] = tiles.reshape(
            samples, channels, down * side, across * side
        )
        if self._norm == "l2":
            delta = delta * (eps / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
            return self._within((rows.x0 + delta).clamp(low, high), rows.x0, rows.eps)
        return self._within(rows.x0 + delta, rows.x0, rows.eps)

    def _signs(self, rows: Begun, shape: list[int]) -> Tensor:
        """Random signs [rows, *shape]."""
        like = rows.x0.new_zeros(len(rows.x0), *shape)
        noise = random_start(like, eps=1.0, bounds=None, seed=self._seed, sample_ids=rows.ids + (1 << 62))
        return torch.where(noise < 0, -1.0, 1.0).to(like.dtype)
