"""torchattacks' PGD, PGDL2, FGSM, MIFGSM and TPGD on our step ops and in safe precision: accelerate."""

from __future__ import annotations

import contextlib
import functools
import importlib
import numbers
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastadv.attacks.loop.rows import choose
from fastadv.numerics import safe_norm
from fastadv.ops.step import pgd_stepper

Forward = Callable[..., Tensor]


def accelerate() -> Acceleration:
    """Make torchattacks compute its PGD, PGDL2, FGSM, MIFGSM and TPGD here, with no change in the code that uses them.

        ``fastadv.integrations.torchattacks.accelerate()``            until ``restore()``
        ``with fastadv.integrations.torchattacks.accelerate(): ...``  inside the block

    Subclasses that inherit the ``forward`` of these five follow; those with one of their own do not. Everything else is
    torchattacks': attributes, targeted modes, normalisation, model modes, and the global random state it draws from.

    In float32 and float64 the linf attacks give the images that torchattacks gives to the bit, up to the sign of a
    zero, random starts included, and PGDL2 gives them up to rounding. torchattacks adds ``eps_for_division`` to the
    length of a gradient: one that is no longer than the default, 1e-10, makes a part of a step there and a whole one
    here; with any other value torchattacks' own method is called. In half precision they differ on purpose: the
    iterates are kept in float32, the loss is summed instead of averaged, and the result is rounded towards the clean
    image, so that it lies in the ball, as torchattacks' own do not (bfloat16: 5.8 % outside of 8/255). What
    torchattacks takes for eps and alpha is taken here: numbers of every kind, and tensors for each channel or pixel;
    where the ops have no rule for them torchattacks' own method is called. A zero gradient moves nothing (in float16
    PGDL2 gives NaN), and channels_last images work.

    Returns:
        An :class:`Acceleration`, whose ``restore()`` or end as a context manager undoes what this call did. Where
        torchattacks is accelerated already, that is nothing.

    Raises:
        ImportError: torchattacks is not installed.
        RuntimeError: it is not of version 3.
    """
    try:
        library = importlib.import_module("torchattacks")
    except ImportError as error:
        raise ImportError("accelerate() needs torchattacks: pip install torchattacks") from error
    version = str(getattr(library, "__version__", "unknown"))
    if version.partition(".")[0] not in ("3", "unknown"):
        raise RuntimeError(f"accelerate() knows torchattacks 3, found {version}")
    return Acceleration(library)


class Acceleration(contextlib.AbstractContextManager["Acceleration"]):
    """The change that :func:`accelerate` made, until :meth:`restore`.

    Attributes:
        classes: the classes of torchattacks that this call has changed.
    """

    def __init__(self, library: Any) -> None:
        found = {getattr(library, name): forward for name, forward in _FORWARDS.items() if hasattr(library, name)}
        self._originals: dict[Any, Forward] = {
            cls: cls.__dict__["forward"] for cls, forward in found.items() if cls.__dict__["forward"] is not forward
        }
        for cls in self._originals:
            cls.forward = found[cls]
        _ORIGINALS.update(self._originals)

    @property
    def classes(self) -> tuple[type, ...]:
        return tuple(self._originals)

    def restore(self) -> None:
        """Give torchattacks its own methods back, where they have not been replaced by others since."""
        for cls, original in self._originals.items():
            if cls.__dict__["forward"] in _FORWARDS.values():
                cls.forward = original
                del _ORIGINALS[cls]
        self._originals = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


# The methods of the classes that are accelerated now, for numbers that the ops do not take.
_ORIGINALS: dict[Any, Forward] = {}


def _accelerated(forward: Callable[..., Tensor], *, pixelwise: bool = True, **fixed: float) -> Forward:
    """Make ``forward`` the method of an attack: it is given eps and alpha as the ops take them, else theirs is called.

    That is a float for all that converts to one, and where ``pixelwise`` a tensor that broadcasts to the images.

    fixed: attributes of which the ops know this one value.
    """

    @functools.wraps(forward)
    def method(self: Any, images: Tensor, labels: Tensor | None = None) -> Tensor:
        given = [_number(getattr(self, name, 0.0), images, pixelwise) for name in ("eps", "alpha")]
        other = any(getattr(self, name, value) != value for name, value in fixed.items())
        if other or any(number is None for number in given):
            original = next(_ORIGINALS[cls] for cls in type(self).__mro__ if cls in _ORIGINALS)
            return original(self, images, labels)
        return forward(self, images, labels, *given)

    return method


def _number(value: Any, images: Tensor, pixelwise: bool) -> float | Tensor | None:
    """Return ``value`` as an op takes it, or None where it is nothing of that kind."""
    if isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.dim() == 0):
        number = float(value)
        return number if number >= 0 else None
    # A tensor of another dtype would change that of the images.
    fits = pixelwise and isinstance(value, Tensor) and value.dtype is images.dtype and value.dim() <= images.dim()
    if not fits or value.device != images.device or bool((value.detach() < 0).any() | value.isnan().any()):
        return None
    value = value.detach().view(*[1] * (images.dim() - value.dim()), *value.shape)
    alike = all(size in (1, full) for size, full in zip(value.shape, images.shape, strict=True))
    return value if alike else None


def _fgsm(self: Any, images: Tensor, labels: Tensor, eps: float | Tensor, _: float | Tensor) -> Tensor:
    run = _Run(self, images)
    loss = run.cross_entropy(labels)
    step = run.stepper(eps, eps)
    return run.finished(step(run.clean, run.gradient(run.clean, loss)))


def _pgd(self: Any, images: Tensor, labels: Tensor, eps: float | Tensor, alpha: float | Tensor) -> Tensor:
    run = _Run(self, images)
    loss = run.cross_entropy(labels)
    x = run.clean
    if self.random_start:
        x = (x + torch.empty_like(x).uniform_(-self.eps, self.eps)).clamp(0, 1)
    step = run.stepper(eps, alpha)
    for _ in range(self.steps):
        x = step(x, run.gradient(x, loss))
    return run.finished(x)


def _pgd_l2(self: Any, images: Tensor, labels: Tensor, eps: float, alpha: float) -> Tensor:
    run = _Run(self, images)
    loss = run.cross_entropy(labels)
    x = run.clean
    if self.random_start:
        noise = torch.empty_like(x).normal_()
        length = safe_norm(noise)
        x = (x + noise * (torch.zeros_like(length).uniform_(0, 1) / length * eps)).clamp(0, 1)
    step = run.stepper(eps, alpha, norm="l2")
    for _ in range(self.steps):
        x = step(x, run.gradient(x, loss))
    return run.finished(x)


def _mi_fgsm(self: Any, images: Tensor, labels: Tensor, eps: float | Tensor, alpha: float | Tensor) -> Tensor:
    run = _Run(self, images)
    loss = run.cross_entropy(labels)
    x, momentum = run.clean, torch.zeros_like(run.clean)
    step = run.stepper(eps, alpha)
    for _ in range(self.steps):
        grad = run.gradient(x, loss)
        mean = grad.abs().mean(dim=tuple(range(1, grad.dim())), keepdim=True)
        # Where the gradient is zero only the momentum is left.
        momentum = choose((mean > 0).flatten(), grad / mean, grad) + momentum * self.decay
        x = step(x, momentum)
    return run.finished(x)


def _tpgd(self: Any, images: Tensor, labels: Tensor | None, eps: float | Tensor, alpha: float | Tensor) -> Tensor:
    run = _Run(self, images)
    with torch.no_grad():
        clean = F.softmax(run.logits(run.clean), dim=1)

    def loss(logits: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(logits, dim=1), clean, reduction="sum")

    x = (run.clean + 0.001 * torch.randn_like(run.clean)).clamp(0, 1)
    step = run.stepper(eps, alpha)
    for _ in range(self.steps):
        x = step(x, run.gradient(x, loss))
    return run.finished(x)


_FORWARDS: dict[str, Forward] = {
    "FGSM": _accelerated(_fgsm),
    "PGD": _accelerated(_pgd),
    "PGDL2": _accelerated(_pgd_l2, pixelwise=False, eps_for_division=1e-10),
    "MIFGSM": _accelerated(_mi_fgsm),
    "TPGD": _accelerated(_tpgd),
}


class _Run:
    """One call of an attack: its images in float32 at least, and gradients of what it ascends."""

    def __init__(self, attack: Any, images: Tensor) -> None:
        self._attack = attack
        self._images = images.detach().to(attack.device)
        self._half = self._images.dtype in (torch.float16, torch.bfloat16)
        self.clean = self._images.float() if self._half else self._images.clone()

    def logits(self, x: Tensor) -> Tensor:
        """The attack's own logits of ``x``, in float32 at least."""
        # Before 3.3 there is no get_logits().
        network = getattr(self._attack, "get_logits", None) or self._attack.model
        logits = network(x.to(self._images.dtype))
        return logits if logits.dtype is torch.float64 else logits.float()

    def gradient(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient of ``loss`` of the logits by ``x``."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(loss(self.logits(x)), x)
        return grad

    def cross_entropy(self, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the loss that an attack on ``labels`` ascends, negative where it is targeted."""
        attack = self._attack
        labels = labels.detach().to(attack.device)
        # The names without an underscore came with 3.4.
        targeted = getattr(attack, "targeted", getattr(attack, "_targeted", False))
        if targeted:
            chosen = getattr(attack, "get_target_label", None) or attack._get_target_label
            labels = chosen(self._images, labels)
        # The mean, which scales every gradient, is theirs to the bit; over many images it underflows in half precision.
        reduction = "sum" if self._half or _autocasts(self._images) else "mean"
        sign = -1 if targeted else 1
        return lambda logits: sign * F.cross_entropy(logits, labels, reduction=reduction)

    def stepper(
        self, eps: float | Tensor, step_size: float | Tensor, norm: str = "linf"
    ) -> Callable[[Tensor, Tensor], Tensor]:
        return pgd_stepper(self.clean, eps=eps, step_size=step_size, norm=norm, mode="sequential")

    def finished(self, x: Tensor) -> Tensor:
        """``x`` in the dtype of the images, rounded towards them."""
        if not self._half:
            return x.detach()
        rounded = x.to(self._images.dtype)
        outward = (rounded.float() - self.clean).abs() > (x - self.clean).abs()
        # In [0, 1] the bits of a float are in the order of its values, and one step back is enough.
        bits, images = rounded.view(torch.int16), self._images.view(torch.int16)
        return torch.where(outward, bits + (images - bits).sign(), bits).view(self._images.dtype)


def _autocasts(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)
