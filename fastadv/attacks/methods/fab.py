"""The nearest point across a linearised decision boundary, again and again: fab."""

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
from fastadv.attacks.loop.objective import gradient
from fastadv.attacks.loop.row_queue import Begun, Queue, State, rows_in_a_pass
from fastadv.attacks.loop.rows import choose
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.near_misses import answers_near_misses
from fastadv.ops import checks
from fastadv.ops.ball import random_start
from fastadv.ops.hyperplane import project_hyperplane

# As published: by how much a step overshoots the plane, how far an adversarial point is drawn back, and the largest
# weight of the clean image's projection.
_OVERSHOOT, _BACK, _LARGEST_WEIGHT = 1.05, 0.9, 0.1
_SHORTEST = 1e-8
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
_ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


@answers_near_misses
def fab(
    model: Network,
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: str = "linf",
    steps: int = 100,
    targets: int | None = 9,
    restarts: int = 1,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 250,
    seed: int | None = None,
    sample_ids: Tensor | None = None,
    check: bool | None = None,
) -> Tensor:
    """Fast adaptive boundary attack: a misclassified image as near as it finds one.

    From x_0 = x, ``steps`` times, with the plane ``{u : w . u = w . x_k - (z_t - z_y)}`` on which the logits of the
    target and of y, linearised at x_k, are equal, w the gradient of ``z_t - z_y``:

        ``d_1 = P(x_k) - x_k``, ``d_2 = P(x) - x``, P of :func:`fastadv.project_hyperplane`

        ``a = min(|d_1| / (|d_1| + |d_2|), 0.1)``

        ``x_{k+1} = clamp((1 - a) (x_k + 1.05 d_1) + a (x + 1.05 d_2), low, high)``

    and where the model takes x_{k+1} for any class but y, that counts and goes back, to ``x + 0.9 (x_{k+1} - x)``.
    Nothing of the caller's changes, see :func:`fastadv.attacks.pgd`.

    After each pass it asks which images have fallen, for which the host waits.

    Args:
        model: one network, see :func:`fastadv.attacks.pgd`.
        x: clean images [N, ...], float64, float32, bfloat16 or float16.
        y: their classes [N], int64; None is the model's own clean prediction. Images of which the model says another
            class are returned as they are.
        eps: radius in the units of x, a float or [N]: the first misclassified iterate that near is returned, and an
            image for which there is none as it is. None returns the nearest misclassified one of all iterates.
        norm: "linf", "l2" or "l1".
        steps: of each search.
        targets: how many classes to aim at in turn, those of rank 2, 3, ... of the clean logits, at most all wrong
            ones; None is the class whose plane lies nearest at each step (as many backward passes a step as classes).
        restarts: searches a target; the first starts at x, others at a distance of eps / 2 in a random direction, cut
            off by the box. One without eps.
        bounds: (low, high), or None for no box.
        batch_size: rows in a pass at most, see :func:`fastadv.attacks.square`. An image that fell makes room for the
            next.
        seed, sample_ids: of the starts of restarts, see :func:`fastadv.attacks.pgd`.
        check: see :func:`fastadv.attacks.pgd`.

    Returns:
        Images, detached, of the shape of x; float32, or float64 for a float64 x.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape, device or value is wrong, unknown norm, fewer than two classes.

    Source: Croce, Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020; its
    targeted form as in AutoAttack.
    """
    networks = Networks(model, check)
    if networks.together:
        raise ValueError("model must be one network, got a sequence")
    x = clean_images(x, bounds, check)
    if eps is not None:
        checks.radius("eps", eps, x)
    checks.choice("norm", norm, checks.NORMS)
    checks.box(bounds)
    count("steps", steps, 0)
    count("restarts", restarts, 1)
    _check_targets("targets", targets)
    if eps is None and restarts > 1:
        raise ValueError(f"restarts must be 1 without eps, from which they start, got {restarts}")
    noise = Noise(seed, sample_ids)
    noise.check(x)
    with no_trace(networks.members):
        judge = Judge(networks, x, y, batch_size=count("batch_size", batch_size, 1))
        search = FabSearch(
            networks,
            targeted=targets is not None,
            norm=norm,
            bounds=bounds,
            steps=steps,
            restarts=restarts,
            seed=resolve(noise.seed),
        )
        return search_correct(
            search,
            judge,
            x,
            eps=math.inf if eps is None else eps,
            sample_ids=sample_ids,
            targets=None if targets is None else judge.targets(targets, restarts),
            copies=restarts,
            batch_size=rows_in_a_pass(batch_size, x.device, judge.logits.dtype),
            kind=Queue if eps is not None else _ToTheEnd,
        )


def _check_targets(name: str, value: int | None) -> None:
    if value is not None:
        count(name, value, 1)


class FAB(Attack, function=fab, own_checks={"targets": _check_targets, "batch_size": partial(count, least=1)}):
    """:func:`fastadv.attacks.fab`, configured once: ``FAB(eps=8 / 255, targets=3)(model, x, y)``."""


class FabSearch:
    """The search of "fab" and "fab-t".

    Args:
        networks: what is attacked.
        targeted: aim at the target of each row, else at the nearest class at each step.
        norm, bounds: of the distance and the box.
        steps: a row makes.
        restarts: a target; copies that are no multiple of it start at random.
        seed: of the random starts.
    """

    made: int | Tensor = 1

    def __init__(
        self,
        networks: Networks,
        *,
        targeted: bool,
        norm: str,
        bounds: tuple[float, float] | None,
        steps: int,
        restarts: int,
        seed: int | Tensor,
    ) -> None:
        self._networks, self._targeted = networks, targeted
        self._norm, self._bounds = norm, bounds
        self._restarts, self._seed = restarts, seed
        self.evaluations = steps + 1

    def begin(self, rows: Begun) -> State:
        x = rows.x0
        if self._restarts > 1:
            x = choose(rows.copy % self._restarts > 0, self._start(rows), x)
        return {**rows.aimed(x), "nearest": rows.x0, "distance": torch.full_like(rows.eps, math.inf)}

    def evaluate(self, state: State) -> Tensor:
        with torch.no_grad():
            logits = self._networks.logits(state["x"])
        # A random start counts only as what a step makes of it.
        self._across = (logits.argmax(1) != state["y"]) & (state["made"] > 0)
        distance = lengths(state["x"] - state["x0"], self._norm)
        nearer = self._across & (distance < state["distance"])
        state["nearest"] = choose(nearer, state["x"], state["nearest"])
        state["distance"] = torch.where(nearer, distance, state["distance"])
        return self._across & (distance <= state["eps"])

    def step(self, state: State) -> None:
        x0 = state["x0"]
        x = choose(self._across, x0 + (state["x"] - x0) * _BACK, state["x"])
        gap, normal = self._plane(x, state)
        offset = (normal * x).flatten(1).sum(1) - gap
        to: dict[str, Any] = {"bounds": self._bounds, "norm": self._norm}
        here, there = (project_hyperplane(point, normal, offset, **to).sub_(point) for point in (x, x0))
        far, near = (lengths(step, self._norm).clamp(min=_SHORTEST) for step in (here, there))
        weight = (far / (far + near)).clamp(max=_LARGEST_WEIGHT).view(-1, *[1] * (x.dim() - 1))
        low, high = self._bounds or (-math.inf, math.inf)
        moved = (x + _OVERSHOOT * here) * (1 - weight) + (x0 + _OVERSHOOT * there) * weight
        state["x"] = moved.clamp(low, high)
        state["made"] = state["made"] + 1

    def _plane(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Margin of the logit of the class aimed at over that of y [rows], and the gradient of that [rows, ...]."""
        x = x.detach().requires_grad_()
        logits = self._networks.logits(x)
        sides = logits.float() if logits.dtype != torch.float64 else logits
        own = torch.nn.functional.one_hot(state["y"], logits.shape[1]).to(logits.dtype)
        if self._targeted:
            aim = torch.nn.functional.one_hot(state["target"], logits.shape[1]).to(logits.dtype)
            gap = (sides.gather(1, state["target"][:, None]) - sides.gather(1, state["y"][:, None])).flatten()
            return gap.detach().to(x.dtype), gradient(logits, x, aim - own)
        gaps = (sides - sides.gather(1, state["y"][:, None])).detach().to(x.dtype)
        nearest = torch.full_like(gaps[:, 0], math.inf)
        gap, normal = torch.zeros_like(nearest), torch.zeros_like(x)
        for label in range(logits.shape[1]):
            aim = torch.zeros_like(own)
            aim[:, label] = 1
            grad = gradient(logits, x, aim - own, again=True)
            far = gaps[:, label].abs() / (1e-12 + grad.flatten(1).norm(_DUAL[self._norm], dim=1))
            nearer = (state["y"] != label) & (far < nearest)
            nearest = torch.where(nearer, far, nearest)
            gap = torch.where(nearer, gaps[:, label], gap)
            normal = choose(nearer, grad, normal)
        return gap, normal.detach()

    def _start(self, rows: Begun) -> Tensor:
        """At half of eps from the clean image."""
        noise = random_start(
            torch.zeros_like(rows.x0), eps=1.0, norm=self._norm, bounds=None, seed=self._seed, sample_ids=rows.ids
        )
        reach = (rows.eps / 2 / lengths(noise, self._norm)).view(-1, *[1] * (noise.dim() - 1))
        low, high = self._bounds or (-math.inf, math.inf)
        return (rows.x0 + reach * noise).clamp(low, high)


class _ToTheEnd(Queue):
    """Every row makes all of its steps, and the nearest find of an image counts."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._distance = [math.inf] * len(self.copy)

    def _take(self, rows: list[int]) -> None:
        pass

    def _close(self, rows: list[int]) -> None:
        if rows:
            at = torch.tensor(rows, device=self.x.device)
            images, distances = self._state["nearest"][at], self._state["distance"][at].tolist()
            holds = self._judge(images, self._state["y"][at]).tolist()
            for row, image, distance, holding in zip(rows, images, distances, holds, strict=True):
                sample = self._pair[row] % len(self.copy)
                if holding and distance < self._distance[sample]:
                    self.x[sample], self._distance[sample] = image, distance
        super()._close(rows)


def lengths(x: Tensor, norm: str) -> Tensor:
    """Norms [rows] of ``x`` [rows, ...]."""
    if norm == "linf":
        return x.abs().amax(tuple(range(1, x.dim())))  # sooner than as a norm, and the same
    return x.flatten(1).norm(_ORDER[norm], dim=1)
