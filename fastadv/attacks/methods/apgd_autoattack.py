"""Auto-PGD as AutoAttack runs it: rows that leave with the first misclassified iterate, of a random model the last."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fastadv.attacks.loop.arguments import clean_images, count
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.image_search import search_correct
from fastadv.attacks.loop.judging import Judge
from fastadv.attacks.loop.noise import Noise, resolve
from fastadv.attacks.loop.objective import Loss, backprop_to_input, check_ranks
from fastadv.attacks.loop.row_queue import Begun, State, rows_in_a_pass
from fastadv.attacks.loop.rows import choose
from fastadv.attacks.methods.apgd_state import largest
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Networks
from fastadv.numerics import per_sample
from fastadv.ops import checks
from fastadv.ops.attack_loss import attack_loss_value_and_grad
from fastadv.ops.ball import project, random_start
from fastadv.ops.step import pgd_stepper

# Shares of the steps, in hundredths: the first period, by how much each is shorter than the last, and the shortest.
_FIRST, _SHORTER, _SHORTEST = 22, 3, 6
# The share of the gradient's step in an iteration; the rest repeats the last movement.
_ALPHA = 0.75
# Of the l1 search: radii of the three phases in eps, and shares of the steps, in hundredths, of the first two.
_RADII, _SHARE = (3.0, 2.0, 1.0), 30
# A row is sparser where it has moved fewer than this share of the coordinates it had moved at the last checkpoint.
_SPARSER, _SHORTEN, _SMALLEST = 0.95, 1.5, 10.0


def first_misclassified(
    model: Any,
    x: Tensor,
    y: Tensor | None,
    ball: Ball,
    noise: Noise,
    loss: Loss,
    steps: int | Tensor,
    restarts: int,
    targets: int | None,
    rho: float,
    batch_size: int,
    check: bool | None,
) -> Tensor:
    """Run :func:`fastadv.attacks.apgd` with ``variant="autoattack"``."""
    networks = Networks(model, check)
    if networks.together:
        raise ValueError('model must be one network for variant="autoattack", got a sequence')
    x = clean_images(x, ball.bounds, check)
    checks.radius("eps", ball.eps, x)
    sparse = checks.choice("norm", ball.norm, checks.NORMS) == checks.NORMS["l1"]
    checks.box(ball.bounds)
    checks.fraction("rho", rho)
    noise.check(x)
    count("restarts", restarts, 1)
    if isinstance(steps, Tensor):
        raise TypeError('steps must be an int for variant="autoattack", got a tensor')
    # Three phases of one step at least.
    count("steps", steps, len(_RADII) if sparse else 0)
    if loss not in ("ce", "dlr"):
        raise ValueError(f'loss must be "ce" or "dlr" for variant="autoattack", got {loss!r}')
    if targets is not None:
        count("targets", targets, 1)
        if loss != "dlr":
            raise ValueError(f'targets must be None for any loss but "dlr", got {targets}')
    how: dict[str, Any] = {"loss": loss, "targeted": targets is not None, "steps": steps, "rho": rho, "eot": 1}
    with no_trace(networks.members):
        judge = Judge(networks, x, y, batch_size=count("batch_size", batch_size, 1))
        if len(x):  # without images nobody asked the model
            check_ranks(loss, targets is not None, judge.logits.shape[1])
        how |= {"bounds": ball.bounds, "seed": resolve(noise.seed)}
        return search_correct(
            SparseAutoPGD(networks, **how) if sparse else AutoPGD(networks, norm=ball.norm, **how),
            judge,
            x,
            eps=ball.eps,
            sample_ids=noise.sample_ids,
            targets=None if targets is None else judge.targets(targets, restarts),
            copies=restarts,
            batch_size=rows_in_a_pass(batch_size, x.device, judge.logits.dtype),
        )


class AutoPGD:
    """The search of "apgd-ce", "apgd-dlr" and "apgd-t", for linf and l2.

    "ce" climbs the log-odds v, as in :class:`fastadv.attacks.loop.objective.Objective`. The published code climbs the
    cross-entropy, ``log(1 + exp v)``: as no more than signs, directions and comparisons of values are taken, both make
    the same steps until the cross-entropy of an image the network is sure of rounds to zero, where the published ones
    follow no gradient any more.

    With several passes a gradient the network is one that errs at random, and may err on any iterate. As published, a
    row then claims nothing before its end, where its last misclassified iterate is judged once; a row without one, or
    whose clean image is misclassified as it begins, is judged by the clean image.

    Args:
        networks: what is attacked.
        loss: "ce" or "dlr".
        targeted: "dlr" is the targeted one.
        norm, bounds: of the ball and the box.
        steps: a row makes.
        rho: share of rising steps up to which the step size halves.
        eot: passes that each gradient is the mean of.
        seed: of the starts.

    Attributes:
        zero_gradients: rows so far whose gradient at the start was zero everywhere, on the device; 0 before any.
    """

    made: int | Tensor = 1

    def __init__(
        self,
        networks: Networks,
        *,
        loss: str,
        targeted: bool,
        norm: str,
        bounds: tuple[float, float] | None,
        steps: int,
        rho: float,
        eot: int,
        seed: int | Tensor,
    ) -> None:
        self._networks = networks
        self._loss, self._targeted = loss, targeted
        self._norm, self._bounds, self._seed, self._eot = norm, bounds, seed, eot
        self._steps, self._rho = steps, rho
        self._first, self._shorter, self._shortest = (
            max(share * steps // 100, 1) for share in (_FIRST, _SHORTER, _SHORTEST)
        )
        self.evaluations = steps + 1
        self.zero_gradients: Tensor | int = 0

    def begin(self, rows: Begun) -> State:
        whole = torch.full_like(rows.y, self._first)
        x = self._start(rows)
        number = torch.zeros_like(rows.eps)
        return self._common(rows, x) | {
            "before": x,
            "size": 2 * rows.eps,
            # The loss after the last step; the published code takes that before the first to be zero, which every
            # cross-entropy exceeds.
            "last": torch.full_like(number, -math.inf) if self._loss == "ce" else number,
            "rises": torch.zeros_like(rows.y),
            "checked": number,
            "halved": torch.ones_like(rows.y, dtype=torch.bool),
            "period": whole,
            "since": torch.zeros_like(rows.y),
        }

    def evaluate(self, state: State) -> Tensor:
        made = state["made"]
        logits, value, grad = self._differentiate(state)
        first = made == 0
        better = (value > state["best"]) | first
        state["best_x"] = choose(better, state["x"], state["best_x"])
        state["best_grad"] = choose(better, grad, state["best_grad"])
        state["best"] = torch.where(better, value, state["best"])
        self._seen = value, grad, first
        return self._claims(logits, state)

    def step(self, state: State) -> None:
        value, grad, first = self._seen
        state["checked"] = torch.where(first, value, state["checked"])
        state["rises"] = state["rises"] + ((value > state["last"]) & ~first)
        state["last"] = torch.where(first, state["last"], value)
        state["since"] = state["since"] + ~first
        due = state["since"] == state["period"]
        seldom = state["rises"] <= self._rho * state["period"]
        stuck = (state["best"] <= state["checked"]) & ~state["halved"]
        halves = due & (seldom | stuck)
        state["size"] = torch.where(halves, state["size"] / 2, state["size"])
        state["halved"] = torch.where(due, halves, state["halved"])
        state["checked"] = torch.where(due, state["best"], state["checked"])
        state["rises"] = torch.where(due, 0, state["rises"])
        state["since"] = torch.where(due, 0, state["since"])
        shorter = (state["period"] - self._shorter).clamp(min=self._shortest)
        state["period"] = torch.where(due, shorter, state["period"])
        x, grad = choose(halves, state["best_x"], state["x"]), choose(halves, state["best_grad"], grad)
        # As published to the bit for linf, and for l2 in its order, first the ball.
        mode = "exact" if self._norm == "linf" else "sequential"
        ball: dict[str, Any] = {"eps": state["eps"], "norm": self._norm, "bounds": self._bounds, "mode": mode}
        moved = pgd_stepper(state["x0"], step_size=state["size"], **ball)(x, grad)
        inertial = project(x + _ALPHA * (moved - x) + (1 - _ALPHA) * (x - state["before"]), state["x0"], **ball)
        state["before"], state["x"] = x, choose(first, moved, inertial)
        state["made"] = state["made"] + 1

    def _common(self, rows: Begun, x: Tensor) -> State:
        """State of rows of every norm at their start ``x``."""
        state = {
            **rows.aimed(x),
            "best": torch.zeros_like(rows.eps),
            "best_x": x,
            "best_grad": torch.zeros_like(x),
        }
        if self._eot > 1:
            with torch.no_grad():
                spared = self._networks.logits(rows.x0).argmax(1) != rows.y
            state |= {"misclassified": rows.x0, "spared": spared}
        return state

    def _start(self, rows: Begun) -> Tensor:
        """On the sphere of radius eps, then in the box."""
        noise = random_start(
            torch.zeros_like(rows.x0), eps=1.0, norm=self._norm, bounds=None, seed=self._seed, sample_ids=rows.ids
        )
        flat = noise.flatten(1)
        length = flat.abs().amax(1) if self._norm == "linf" else flat.norm(dim=1)
        low, high = self._bounds or (-math.inf, math.inf)
        return (rows.x0 + per_sample(rows.eps / length, noise) * noise).clamp(low, high)

    def _differentiate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses [rows], and the mean of as many gradients as are asked for; both first ones of the last."""
        total, largest = torch.zeros_like(state["x"]), torch.full_like(state["eps"], -math.inf)
        kind = "log_odds" if self._loss == "ce" else self._loss
        for _ in range(self._eot):
            x = state["x"].detach().requires_grad_()
            logits = self._networks.logits(x)
            targets = {"target": state["target"], "reference": state["y"]} if self._targeted else {"target": state["y"]}
            value, by_logits = attack_loss_value_and_grad(logits, kind=kind, targeted=self._targeted, **targets)
            grad = backprop_to_input(logits, x, by_logits)
            if self._loss == "ce" and self._eot > 1:
                # Each counts as in the mean of the cross-entropies, by 1 - p_y, to that of the largest.
                log_scale = logsigmoid(value).to(largest.dtype)
                before, largest = largest, torch.maximum(largest, log_scale)
                total = per_sample((before - largest).exp(), total) * total
                grad = per_sample((log_scale - largest).exp(), grad) * grad
            total = total + grad
        if self._loss == "dlr":
            self.zero_gradients = self.zero_gradients + (self._begins(state) & (total == 0).flatten(1).all(1)).sum()
        return logits.detach(), value.to(state["eps"].dtype), total / self._eot

    def _begins(self, state: State) -> Tensor:
        """Which rows have made no step at all [rows]."""
        return state["made"] == 0

    def _claims(self, logits: Tensor, state: State) -> Tensor:
        """Which rows claim [rows]; of a network that errs at random those that are over, with what they found in x."""
        misclassified = logits.argmax(1) != state["y"]
        if self._eot == 1:
            return misclassified
        state["misclassified"] = choose(misclassified & ~state["spared"], state["x"], state["misclassified"])
        over = state["made"] == self._steps
        state["x"] = choose(over, state["misclassified"], state["x"])
        return over


class SparseAutoPGD(AutoPGD):
    """The same for l1: three phases of radius 3, 2 and 1 eps, of which the last counts.

    A phase begins at the best point of the one before, projected onto its own ball.
    """

    def __init__(self, networks: Networks, *, steps: int, **keywords: object) -> None:
        super().__init__(networks, steps=steps, norm="l1", **keywords)  # type: ignore[arg-type]
        begun = -(-_SHARE * steps // 100)
        self._lengths = (begun, begun, steps - 2 * begun)
        self.evaluations = steps + len(self._lengths)

    def begin(self, rows: Begun) -> State:
        state = self._common(rows, rows.x0) | {"phase": torch.zeros_like(rows.y)}
        state["radius"] = _RADII[0] * rows.eps
        start = rows.x0 + self._normal(rows)
        self._enter(state, torch.ones_like(rows.y, dtype=torch.bool), start)
        return state

    def evaluate(self, state: State) -> Tensor:
        claims = super().evaluate(state)
        return claims & (state["phase"] == len(_RADII) - 1)

    def step(self, state: State) -> None:
        _, grad, first = self._seen
        lengths = torch.tensor(self._lengths, device=first.device)[state["phase"]]
        every = torch.tensor([max(4 * length // 100, 1) for length in self._lengths], device=first.device)
        over = state["made"] == lengths
        due = (state["made"] > 0) & (state["made"] % every[state["phase"]] == 0)
        support = _support(state["best_x"], state["x0"])
        sparser = due & (support < _SPARSER * state["support"])
        shorter = torch.maximum(state["size"] / _SHORTEN, state["radius"] / _SMALLEST)
        state["size"] = torch.where(due, torch.where(sparser, state["radius"], shorter), state["size"])
        state["kept"] = torch.where(due, _kept(support, state["x0"]), state["kept"])
        state["support"] = torch.where(due, support, state["support"])
        x, grad = choose(sparser, state["best_x"], state["x"]), choose(sparser, state["best_grad"], grad)
        ball: dict[str, Any] = {"eps": state["radius"], "norm": "l1", "bounds": self._bounds}
        step = pgd_stepper(state["x0"], step_size=state["size"], l1_fraction=1.0, **ball)
        moved = step(x, largest(grad, state["kept"]))
        state["x"] = choose(over, state["x"], moved)
        state["made"] = state["made"] + ~over
        # A row that is done and free goes on in the last phase.
        state["phase"] = (state["phase"] + over).clamp(max=len(_RADII) - 1)
        radii = torch.tensor(_RADII, device=first.device, dtype=state["eps"].dtype)
        state["radius"] = radii[state["phase"]] * state["eps"]
        self._enter(state, over, state["best_x"])

    def _begins(self, state: State) -> Tensor:
        return super()._begins(state) & (state["phase"] == 0)

    def _enter(self, state: State, rows: Tensor, x: Tensor) -> None:
        """Let ``rows`` begin a phase next to ``x``."""
        inside = project(x, state["x0"], eps=state["radius"], norm="l1", bounds=self._bounds)
        support = _support(inside, state["x0"])
        new = {"size": state["radius"], "support": support, "kept": _kept(support, state["x0"])}
        for name, value in new.items():
            state[name] = torch.where(rows, value, state.get(name, value))
        state["x"] = choose(rows, inside, state["x"])
        state["made"] = torch.where(rows, 0, state["made"])

    def _normal(self, rows: Begun) -> Tensor:
        """Standard normal deviates by Box and Muller, of two uniform ones each."""
        halves = [
            random_start(
                torch.zeros_like(rows.x0), eps=0.5, bounds=None, seed=self._seed, sample_ids=rows.ids + (half << 48)
            )
            for half in range(2)
        ]
        # Uniform in (0, 1] and in [-1/2, 1/2).
        return (-2 * (0.5 - halves[0]).log()).sqrt() * (2 * math.pi * halves[1]).cos()


def _support(x: Tensor, x0: Tensor) -> Tensor:
    """Number of coordinates of each image that have moved [rows]."""
    return (x != x0).flatten(1).sum(1)


def _kept(support: Tensor, x0: Tensor) -> Tensor:
    """Number of coordinates that a step moves: two thirds of the support, in float32 as in the published code."""
    elements = x0[0:1].numel()
    left_out = ((1 - support.float() / elements / 1.5) * elements).clamp(0, elements - 1).long()
    return elements - left_out
