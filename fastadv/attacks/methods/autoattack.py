"""The ensemble whose verdict robustness tables quote: autoattack."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastadv.attacks.loop.arguments import clean_images, count
from fastadv.attacks.loop.image_search import queue_of
from fastadv.attacks.loop.judging import Judge
from fastadv.attacks.loop.noise import check_ids, derived, resolve
from fastadv.attacks.loop.objective import least_classes
from fastadv.attacks.loop.row_queue import Queue, Search, rows_in_a_pass
from fastadv.attacks.methods.apgd_autoattack import AutoPGD, SparseAutoPGD
from fastadv.attacks.methods.fab import FabSearch
from fastadv.attacks.methods.square import SquareSearch
from fastadv.attacks.model.freeze import freeze
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.near_misses import answers_near_misses
from fastadv.ops import checks

# The order in which the attacks run, with the number from which each derives its seed.
ATTACKS = {"apgd-ce": 1, "apgd-dlr": 2, "apgd-t": 3, "fab-t": 4, "fab": 5, "square": 6}
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STEPS, _QUERIES, _RHO, _TARGETS, _RESTARTS = 100, 5000, 0.75, 9, 5
# Of l1: fewer targets of APGD. Of "rand": passes that a gradient is the mean of.
_L1_TARGETS, _EOT = 5, 20
# Forward passes that an evaluation and a step cost, a backward pass as one: for the time left alone.
_COST = {"apgd-ce": 2, "apgd-dlr": 2, "apgd-t": 2, "fab-t": 3, "fab": 3, "square": 1}
# Fewest classes that an attack is defined for.
_LEAST_CLASSES = {"apgd-dlr": least_classes("dlr", False), "apgd-t": least_classes("dlr", True)}
# Of the warnings: passes of the clean images, how far normalised logits or a sum of probabilities may be off, and the
# accuracy by which Square may beat the rest.
_REPEATS, _SPREAD, _OFF, _MASKED = 5, 1e-4, 1e-5, 0.002

ROBUST, MISCLASSIFIED = -1, -2


class Stage(NamedTuple):
    """One attack of an ensemble.

    Attributes:
        attack: its name.
        attacked: images that stood before it.
        broken: images that it broke.
        robust_accuracy: share of all images that stand after it.
        seconds: it took.
    """

    attack: str
    attacked: int
    broken: int
    robust_accuracy: float
    seconds: float


class AutoAttackResult(NamedTuple):
    """Verdict of :func:`autoattack`.

    Attributes:
        clean_accuracy: share of the images that are classified right.
        stages: the attacks in the order they ran.
        broken_by: for each image the place in ``stages`` of the attack that broke it, int64 [N]; -1 where none did, -2
            where the clean image is misclassified already.
        warnings: what may make the verdict unreliable, in sentences.
    """

    clean_accuracy: float
    stages: tuple[Stage, ...]
    broken_by: Tensor
    warnings: tuple[str, ...]

    @property
    def robust_accuracy(self) -> float:
        """Share of the images that stand after all attacks."""
        return share(self.broken_by == ROBUST)


@answers_near_misses
def autoattack(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    version: str | Sequence[str] = "standard",
    attack_dtype: str | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 250,
    seed: int | None = 0,
    sample_ids: Tensor | None = None,
) -> tuple[Tensor, AutoAttackResult]:
    """AutoAttack: an ensemble without parameters, each attack on the images that still stand.

    ============  ==================================================  ==============================
    attack        what each image that stands is attacked with         in versions
    ============  ==================================================  ==============================
    "apgd-ce"     Auto-PGD on the cross-entropy, 100 steps             standard, plus (5 restarts), rand
    "apgd-dlr"    the same on the DLR loss                             plus (5 restarts), rand
    "apgd-t"      the same on the targeted DLR loss, 9 targets         standard, plus
    "fab-t"       :func:`fab` towards 9 targets, 100 steps             standard, plus
    "fab"         :func:`fab` towards the nearest class, 5 restarts    plus
    "square"      :func:`square`, 5,000 queries                        standard, plus
    ============  ==================================================  ==============================

    For l1, Auto-PGD runs in three phases of radius 3 eps, 2 eps and eps, "apgd-ce" 5 times and "apgd-t" on 5 targets;
    only "standard" is defined. "rand", for randomised models, averages each gradient over 20 passes. Targets are the
    classes of rank 2, 3, ... of the clean logits, never more than there are; an attack that is not defined for so few
    classes is left out, with a warning.

    Formulas, constants and bookkeeping are those of the authors' code. What differs does not change the verdict but by
    its own noise: except in "rand", an image leaves with the first misclassified iterate, not with the last; Square
    draws a window for each image, not one for a batch; FAB projects whatever the size of the gradient. Draws come from
    the seed and the identity of an image alone, so neither batch size nor order nor interruption moves them.

    No image is called broken unless the model itself, on the image that is returned, says so. After each pass the host
    waits to learn which images have fallen. Nothing of the caller's changes, see :func:`fastadv.attacks.pgd`.

    Args:
        model: one network, see :func:`fastadv.attacks.pgd`, in the form that is to be judged.
        x: clean images [N, ...], float64, float32, bfloat16 or float16, inside the bounds.
        y: their classes [N], int64.
        eps: radius in the units of x.
        norm: "linf", "l2" or "l1".
        version: "standard", "plus", "rand", or names of attacks, which then run in that order as in the version that
            has them, "standard" first.
        attack_dtype: "float32", "bfloat16" or "float16" attacks a folded copy in that precision, see
            :func:`fastadv.attacks.freeze`; the model still is the judge. None attacks the model itself.
        bounds: (low, high), or None for no box.
        batch_size: images in a pass at most, see :func:`fastadv.attacks.square`.
        seed: of all draws; None is another at each call.
        sample_ids: whose noise each image gets, see :func:`fastadv.attacks.pgd`.

    Returns:
        The adversarial images, detached, of the shape of x, float32, or float64 for a float64 x; the clean image where
        none was found or none was needed. And an :class:`AutoAttackResult`.

    Raises:
        TypeError: an argument is of the wrong type, attack_dtype is given for what is no module.
        ValueError: a shape, device or value is wrong, unknown norm, version or attack; "plus" or "rand" for l1; Square
            on what are no images [N, C, H, W]; no attack but such as need more classes than there are.

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020; for l1 the same, "Mind the box", ICML 2021; the authors' package pyautoattack 0.2.0.
    """
    evaluation = AutoAttack(
        model,
        x,
        y,
        eps=eps,
        norm=norm,
        version=version,
        attack_dtype=attack_dtype,
        bounds=bounds,
        batch_size=batch_size,
        seed=seed,
        sample_ids=sample_ids,
    )
    evaluation.run()
    return evaluation.images, evaluation.result()


class AutoAttack:
    """:func:`autoattack`, a pass at a time: to be watched, stored and gone on with.

    Arguments as there.

    Attributes:
        broken_by: see :class:`AutoAttackResult`, so far.
        attacks: the names of all attacks, in their order.
        stage: how many of them are over.
        zero_gradients: of each that has begun, how many searches started where the gradient is zero everywhere;
            counted as it ends.
        model_warnings: what ``result().warnings`` says of the model, whatever the attacks find.
    """

    def __init__(
        self,
        model: Network,
        x: Tensor,
        y: Tensor,
        *,
        eps: float,
        norm: str = "linf",
        version: str | Sequence[str] = "standard",
        attack_dtype: str | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        batch_size: int = 250,
        seed: int | None = 0,
        sample_ids: Tensor | None = None,
    ) -> None:
        self._networks = Networks(model)
        if self._networks.together:
            raise ValueError("model must be one network, got a sequence")
        self._x = clean_images(x, bounds, None)
        checks.int64("y", y, [len(x)], self._x)
        self._eps = checks.not_negative("eps", eps)
        checks.choice("norm", norm, checks.NORMS)
        checks.box(bounds)
        self._norm, self._bounds = norm, bounds
        self.attacks = _named(version, norm)
        self._version = version if isinstance(version, str) else None
        self._batch_size = count("batch_size", batch_size, 1)
        resolved = resolve(seed)
        checks.seed(resolved, self._x)
        if isinstance(resolved, Tensor):
            raise TypeError(
                "seed must be an int or None for autoattack, which derives one an attack from it; got a tensor"
            )
        self._seed = resolved
        if sample_ids is not None:
            check_ids(sample_ids, self._x)
        self._ids = sample_ids
        if "square" in self.attacks and self._x.dim() != 4:
            shape = list(self._x.shape)
            raise ValueError(
                f"x must be images [N, C, H, W] for square, got {shape}; version may name the other attacks"
            )
        self._found = self._x.clone()
        self.stage = 0
        self._queue: Queue | None = None
        self._seconds: list[float] = []
        self.zero_gradients: list[int] = []
        self.model_warnings: list[str] = []
        with no_trace(self._networks.members):
            self._judge = Judge(self._networks, self._x, y, batch_size=self._batch_size)
            classes = self._judge.logits.shape[1]
            self.broken_by = torch.full_like(self._judge.y, MISCLASSIFIED)
            self.broken_by[self._judge.correct] = ROBUST
            self._check_network(self._x[: self._batch_size])
            self._attacked = self._networks if attack_dtype is None else Networks(_copy(model, attack_dtype))
        dtype = self._judge.logits.dtype if attack_dtype is None else _DTYPES[attack_dtype]
        self._rows = rows_in_a_pass(self._batch_size, self._x.device, dtype)
        # Without images nobody asked the model, nor is there anything to leave out.
        undefined = [name for name in self.attacks if len(x) and classes < _LEAST_CLASSES.get(name, 2)]
        if undefined and len(undefined) == len(self.attacks):
            least = min(_LEAST_CLASSES.get(name, 2) for name in undefined)
            raise ValueError(
                f"version must name an attack of {classes} classes, which the model has: {', '.join(undefined)} needs "
                f"{least} at least"
            )
        for name in undefined:
            self._warn_of_model(f"{name} is left out: it needs {_LEAST_CLASSES[name]} classes, the model has {classes}")
        self.attacks = tuple(name for name in self.attacks if name not in undefined)

    @property
    def images(self) -> Tensor:
        """The adversarial images so far, the clean ones where there is none [N, ...]."""
        if self._queue is None:
            return self._found
        return self._found.index_copy(0, self._images, self._queue.x)

    def run(self, watch: Callable[[AutoAttack], object] | None = None) -> None:
        """Make all passes that are left; ``watch`` is called after each."""
        while self.advance():
            if watch is not None:
                watch(self)

    def advance(self) -> bool:
        """Make one pass; False, and none is made, where the last attack is over."""
        begun = time.perf_counter()
        while self.stage < len(self.attacks):
            with no_trace(self._networks.members):
                if self._queue is None:
                    self._begin()
                went_on = self._queue is not None and self._queue.advance()
            self._take()
            self._seconds[self.stage] += time.perf_counter() - begun
            if went_on:
                return True
            begun = time.perf_counter()
            self._end()
        return False

    def seconds_left(self) -> float:
        """An estimate, from the speed so far, of what the attacks that are left take if no other image falls."""
        if self._queue is None or not self._queue.passes:
            return float("nan")
        each = self._seconds[self.stage] / self._queue.evaluations / _COST[self.attacks[self.stage]]
        robust = int((self.broken_by == ROBUST).sum())
        work = self._queue.evaluations_left() * _COST[self.attacks[self.stage]]
        for name in self.attacks[self.stage + 1 :]:
            search, copies, _ = self._search(name)
            work += robust * copies * search.evaluations * _COST[name]
        return each * work

    def result(self) -> AutoAttackResult:
        """The verdict so far."""
        return summary(self.broken_by, self.attacks, self._seconds, self.zero_gradients, self.model_warnings)

    def state_dict(self) -> dict[str, Any]:
        """All that an evaluation of the same arguments needs to go on from here."""
        queue = None if self._queue is None else self._queue.state_dict()
        self._count_zero_gradients()
        return {
            "images": self._found,
            "broken_by": self.broken_by.clone(),
            "stage": self.stage,
            "seconds": list(self._seconds),
            "zero_gradients": list(self.zero_gradients),
            "model_warnings": list(self.model_warnings),
            "queue": queue,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._found = saved["images"].to(self._x.device)
        # A copy: it is written to, and what was saved may be gone on with again.
        self.broken_by = saved["broken_by"].to(self._x.device, copy=True)
        self.stage, self._seconds = saved["stage"], list(saved["seconds"])
        self.zero_gradients, self.model_warnings = list(saved["zero_gradients"]), list(saved["model_warnings"])
        self._queue = None
        if saved["queue"] is not None:
            # Those that stood when the attack began: the others that it broke are in the queue's own record.
            self._queue = self._new_queue((self.broken_by == ROBUST) | (self.broken_by == self.stage))
            self._queue.load_state_dict(saved["queue"])
            if isinstance(self._running, AutoPGD):
                self._running.zero_gradients = self.zero_gradients[self.stage]

    def _begin(self) -> None:
        self._seconds.append(0.0)
        self.zero_gradients.append(0)
        robust = self.broken_by == ROBUST
        self._queue = self._new_queue(robust) if bool(robust.any()) else None

    def _new_queue(self, robust: Tensor) -> Queue:
        self._running, copies, targets = self._search(self.attacks[self.stage])
        self._images = robust.nonzero().flatten()
        return queue_of(
            self._running,
            self._judge,
            self._x,
            self._images,
            eps=self._eps,
            sample_ids=self._ids,
            targets=targets,
            copies=copies,
            batch_size=self._rows,
        )

    def _take(self) -> None:
        """Record what the attack in progress has broken."""
        if self._queue is None:
            return
        broken = [place for place, copy in enumerate(self._queue.copy) if copy >= 0]
        if broken:
            at = self._images[torch.tensor(broken, device=self._images.device)]
            self.broken_by[at] = self.stage

    def _end(self) -> None:
        self._count_zero_gradients()
        self._found, self._queue = self.images, None
        for message in _of_zero_gradients(self.attacks[self.stage], self.zero_gradients[self.stage]):
            _warn(message)
        self.stage += 1
        if self.stage == len(self.attacks):
            for message in _of_square(self.result().stages):
                _warn(message)

    def _count_zero_gradients(self) -> None:
        """Ask the device how many the attack in progress has seen."""
        if self._queue is not None and isinstance(self._running, AutoPGD):
            self.zero_gradients[self.stage] = int(self._running.zero_gradients)

    def _search(self, name: str) -> tuple[Search, int, Tensor | None]:
        """The search of an attack, how many of it an image gets, and the targets [N, copies] if it has any."""
        seed = derived(self._seed, ATTACKS[name])
        where: dict[str, Any] = {"bounds": self._bounds, "seed": seed}
        how: dict[str, Any]
        if name == "square":
            how = {"norm": self._norm, "queries": _QUERIES, "rows": self._rows}
            return SquareSearch(self._attacked, **how, **where), 1, None
        restarts = self._restarts(name)
        targets = None
        if name.endswith("-t"):
            fewer = self._norm == "l1" and name == "apgd-t"
            targets = self._judge.targets(_L1_TARGETS if fewer else _TARGETS)
        copies = restarts if targets is None else targets.shape[1]
        if name.startswith("fab"):
            aimed: dict[str, Any] = {"targeted": targets is not None, "restarts": restarts}
            return FabSearch(self._attacked, norm=self._norm, steps=_STEPS, **aimed, **where), copies, targets
        how = {
            "loss": "ce" if name == "apgd-ce" else "dlr",
            "targeted": targets is not None,
            "steps": _STEPS,
            "rho": _RHO,
            "eot": _EOT if self._version == "rand" else 1,
        }
        if self._norm == "l1":
            return SparseAutoPGD(self._attacked, **how, **where), copies, targets
        return AutoPGD(self._attacked, norm=self._norm, **how, **where), copies, targets

    def _restarts(self, name: str) -> int:
        """Number of times that an attack begins on an image, or on each of its targets."""
        by_name = self._version is None and name == "apgd-dlr"  # which "plus" has before "rand"
        in_plus = (self._version == "plus" or by_name) and name in ("apgd-ce", "apgd-dlr")
        in_l1 = self._norm == "l1" and name == "apgd-ce"
        return _RESTARTS if name == "fab" or in_plus or in_l1 else 1

    def _check_network(self, x: Tensor) -> None:
        """Warn of what the published code warns of, before any attack."""
        if not len(x):
            return
        with torch.no_grad():
            passes = [self._networks.logits(x).to(torch.float64, copy=True) for _ in range(_REPEATS)]
        logits = passes[0]
        sums = (logits.sum(1) - 1).abs()
        if bool((logits.min() > -_OFF) & (logits.max() < 1 + _OFF) & (sums < _OFF).all()):
            self._warn_of_model(
                "the outputs of model are probabilities: give it without its softmax, whose gradient vanishes"
            )
        units = torch.stack([each / (each.norm(dim=1, keepdim=True) + 1e-10) for each in passes])
        if self._version != "rand" and bool(((units - units[:1]).norm(dim=2) > _SPREAD).any()):
            self._warn_of_model(
                'the outputs of model differ from call to call: version="rand" is meant for randomised models'
            )
        if _records_gradients(self._networks, x):
            self._warn_of_model(
                "model records gradients inside its own forward: a defence that adapts to its input may not be judged"
                " right by attacks that were not made for it"
            )

    def _warn_of_model(self, message: str) -> None:
        self.model_warnings.append(message)
        _warn(message)


def summary(
    broken_by: Tensor,
    attacks: Sequence[str],
    seconds: Sequence[float],
    zero_gradients: Sequence[int],
    model_warnings: Sequence[str],
) -> AutoAttackResult:
    """The result of an evaluation in which ``seconds`` were spent on the first ``attacks``.

    zero_gradients, model_warnings: see :class:`AutoAttack`.
    """
    stages = []
    for place, (name, spent) in enumerate(zip(attacks, seconds, strict=False)):
        before = (broken_by == ROBUST) | (broken_by >= place)
        broken = broken_by == place
        stages.append(Stage(name, int(before.sum()), int(broken.sum()), share(before & ~broken), spent))
    messages = list(model_warnings)
    for name, searches in zip(attacks, zero_gradients, strict=False):
        messages += _of_zero_gradients(name, searches)
    messages += _of_square(stages)
    return AutoAttackResult(share(broken_by != MISCLASSIFIED), tuple(stages), broken_by, tuple(messages))


def _of_zero_gradients(attack: str, searches: int) -> list[str]:
    """The warning of so many ``searches`` of an attack that began where the gradient is zero, if there are any."""
    if not searches:
        return []
    return [
        f"{attack}: the gradient is zero everywhere at the start of {searches} searches, so attacks that follow it may"
        " overrate the model"
    ]


def _of_square(stages: Sequence[Stage]) -> list[str]:
    """The warning of a Square that breaks what all others leave, if it does."""
    accuracies = {stage.attack: stage.robust_accuracy for stage in stages}
    square = accuracies.pop("square", 1.0)
    least = min(accuracies.values(), default=0.0)
    if square >= least - _MASKED:
        return []
    return [
        f"square, which sees no gradient, breaks {least - square:.1%} of the images beyond all other attacks:"
        " gradients may be masked and the robust accuracy too high; the defence needs an attack made for it"
    ]


def _warn(message: str) -> None:
    warnings.warn(f"autoattack: {message}", stacklevel=5)


def share(which: Tensor) -> float:
    """The share of a mask [N] that is True; 0 of none."""
    return int(which.sum()) / max(len(which), 1)


def _named(version: str | Sequence[str], norm: str) -> tuple[str, ...]:
    if isinstance(version, str):
        names = checks.choice("version", version, VERSIONS)
        if norm == "l1" and version != "standard":
            raise ValueError(f'version must be "standard" or names of attacks for l1, got {version!r}')
        return names
    if not isinstance(version, Sequence):
        raise TypeError(f"version must be a str or a sequence of names of attacks, got {type(version).__name__}")
    names = tuple(version)
    if not names:
        raise ValueError("version must name at least one attack, got none")
    for name in names:
        checks.choice("version", name, ATTACKS)
    if len(set(names)) < len(names):
        raise ValueError(f"version must name each attack once, got {list(names)}")
    return names


def _copy(model: Network, attack_dtype: str) -> Network:
    dtype = checks.choice("attack_dtype", attack_dtype, _DTYPES)
    if not isinstance(model, nn.Module):
        raise TypeError(f"attack_dtype must be None for a model that is no module, got {attack_dtype!r}")
    return freeze(model, dtype=dtype)


def _records_gradients(networks: Networks, x: Tensor) -> bool:
    """Return whether ``networks``, which have run on ``x`` before, differentiate inside their own forward."""
    recorded: list[bool] = []

    def keep(tensor: Tensor) -> Tensor:
        recorded.append(True)
        return tensor

    try:
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            networks.logits(x)
    except RuntimeError:  # torch.func, which differentiates too, refuses to run inside such hooks
        return True
    return bool(recorded)
