"""The interface between a method of training a student and the loop that trains it: Method and Batch."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from fastadv.attacks import captured
from fastadv.attacks.model.freeze import Frozen
from fastadv.distill.parts.float32_output import compiled_whole
from fastadv.near_misses import answers_near_misses
from fastadv.numerics import accumulate
from fastadv.ops import checks

Network = Callable[[Tensor], Tensor]
Terms = dict[str, Tensor]

_COUNTED = "; fastadv.distill.Distiller counts steps for you"


@dataclass(frozen=True)
class Batch:
    """The data of one step of training.

    x: images [N, ...]; y: their classes [N], int64, of whatever values for a method that looks at none.
    progress: share of training that is done, in [0, 1), for schedules; None where no method asks for it.
    seed: of the method's random numbers, an int or an int64 tensor without dimensions on the device of x; None where no
        method draws any.
    index: positions [N] of the images in the training set, int64, for methods that remember something of each image;
        None where the caller does not count them.
    label_smoothing: share of the label that ``cross_entropy`` spreads over all classes.
    mixed: where x are mixed images, the classes [N] of the others in them and the share of those of y.
    """

    x: Tensor
    y: Tensor
    progress: float | None = None
    seed: int | Tensor | None = None
    index: Tensor | None = None
    label_smoothing: float = 0.0
    mixed: tuple[Tensor, float] | None = None

    @property
    def hard(self) -> bool:
        """True where ``cross_entropy`` is that of y alone."""
        return not self.label_smoothing and self.mixed is None

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Return the cross-entropy of ``logits`` [N, C] and the labels, in float32 or float64, the mean over the batch.

        Of mixed images it is ``share CE(y) + (1 - share) CE(mixed)``. Raises TypeError and ValueError where y is no
        int64 [N], and what torch does for numbers that are no class.
        """
        logits = accumulate(logits)
        checks.target(self.y, logits, "y")
        own = cross_entropy(logits, self.y, label_smoothing=self.label_smoothing)
        if self.mixed is None:
            return own
        classes, share = self.mixed
        return share * own + (1 - share) * cross_entropy(logits, classes, label_smoothing=self.label_smoothing)

    def progress_for(self, method: Method) -> float:
        """Return ``progress``. Raises ValueError where it is no share, or None, naming ``method``, which needs it."""
        if self.progress is None:
            raise ValueError(
                f"{type(method).__name__} needs Batch(progress=...), the share of training that is done{_COUNTED}"
            )
        if not 0 <= self.progress <= 1:
            raise ValueError(
                "progress must lie in [0, 1], the share of training that is done: epoch / epochs, "
                f"got {self.progress!r}{_COUNTED}"
            )
        return self.progress

    def seed_for(self, method: Method) -> int | Tensor:
        """Return ``seed``. Raises ValueError naming ``method``, which draws by it, where it is None."""
        if self.seed is None:
            raise ValueError(f"{type(method).__name__} needs Batch(seed=...), another one at each step{_COUNTED}")
        return self.seed


class Method(nn.Module, abc.ABC):
    """A map from one batch to the terms of its loss.

    A loop calls ``build`` once, ``start_epoch`` before each epoch, and ``method(student, teacher, batch)`` in each
    step, whose ``"loss"`` it minimises over the student's parameters and ``own_parameters()``. All that must survive a
    restart is in the ``state_dict``.
    """

    needs_teacher: bool
    # Whether it looks at training images; where it does not, batch.x is empty but for its first dimension.
    needs_images: bool = True
    # Whether it looks at the classes of images, in its settings.
    needs_labels: bool = True
    # Whether it looks at the number of the epoch: then ``start_epoch`` must be called.
    needs_epochs: bool = False
    # Whether a schedule of it follows ``Batch.progress``, in some or all of its settings.
    follows_progress: bool = False
    # Whether it makes adversarial images, in some or all of its settings.
    attacks: bool = False
    # Whether its samples lie nearer to the images than half precision tells pixels apart, in its settings.
    needs_float32: bool = False
    # Whether it remembers something of each image, by Batch.index: then one process must see them all.
    remembers_images: bool = False
    # Whether it has a term of Batch.cross_entropy, so that smoothed labels mean something.
    smooths_labels: bool = False
    # Whether nothing of it needs the class or the number of each single image, so that images may be mixed.
    mixes_images: bool = False
    # What it is built on where its argument ``base`` is None; None where it has no such argument.
    default_base: type[Method] | None = None

    # The loop that makes its adversarial images, called with (networks, x, ...); None where there is none.
    ascent: Callable[..., Any] | None = None
    # Frozen copies of the student that it attacks, made by ``build``; in a tuple, so as to be no part of the state.
    copies: tuple[Frozen, ...] = ()
    # What ``build`` found that a reader of the results should know.
    notes: tuple[str, ...] = ()

    # Epochs of ``warm_up_terms`` over ``warm_up_parameters()`` alone, before the student's first step.
    warm_up_epochs: int = 0

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Answer a near miss of an argument of the constructor with its name."""
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = answers_near_misses(cls.__init__)  # type: ignore[method-assign]

    @abc.abstractmethod
    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        """Return the scalar terms of the loss by name; ``terms["loss"]`` is to be minimised, the others are detached.

        student: from images to logits [N, C], in the mode it is to be trained in. teacher: as the student; only read:
        it runs in eval mode, without gradients. None where none is needed.

        Raises TypeError where the method needs a teacher and gets None.
        """

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        """Make the modules whose shapes depend on the networks; ``x`` [N, ...] is an example of ``images`` images."""

    def start_epoch(self, student: nn.Module) -> None:
        """Prepare for an epoch; called before its first step, with the student as it is then."""

    def own_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that are trained with the student's."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def warm_up_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that the warm-up trains."""
        return iter(())

    def warm_up_terms(self, teacher: Network | None, batch: Batch) -> Terms:
        """As ``forward``, for a step of the warm-up."""
        raise NotImplementedError(f"{type(self).__name__} has no warm-up")

    def parts(self) -> Iterator[Method]:
        """Return the method itself and those it builds on."""
        return (module for module in self.modules() if isinstance(module, Method))

    def capture_ascents(self, device: torch.device) -> None:
        """Run every ascent on ``device`` as CUDA graphs from now on, see :func:`fastadv.attacks.capture`.

        Where the device has none they stay the eager loops they are. Raises ValueError, whatever the device, for an
        ascent that no graph can hold.
        """
        for part in self.parts():
            if part.ascent is not None:
                graphs = captured.capture(part.ascent)
                if captured.why_eager(device) is None:
                    part.ascent = graphs

    def compile_copies(self) -> None:
        """Run every frozen copy of the student that is attacked through torch.compile from now on."""
        for part in self.parts():
            for copy in part.copies:
                copy.forward = compiled_whole(copy.forward)  # type: ignore[assignment, method-assign]


class AdversarialMethod(Method):
    """A method with a network that an optimizer of its own trains against the student, after the student's step.

    adversary: that network; its parameters are no ``own_parameters()``.
    adversary_every: steps of the student for one of the adversary.
    """

    adversary: nn.Module
    adversary_every: int = 1

    @abc.abstractmethod
    def adversary_optimizer(self) -> Optimizer:
        """Return a new optimizer of the adversary's parameters; a loop scales its rate as it scales the student's."""

    @abc.abstractmethod
    def adversary_terms(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        """As ``forward``, for a step of the adversary: the gradient reaches nothing else that is trained.

        A loop may pass the batch of the student's step, seed and all.
        """

    def own_parameters(self) -> Iterator[nn.Parameter]:
        rivals = set(self.adversary.parameters())
        return (parameter for parameter in super().own_parameters() if parameter not in rivals)
