"""A method in your own training loop: Distiller."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fastadv.attacks.loop.arguments import count
from fastadv.attacks.model.guard import evaluating
from fastadv.distill.method import AdversarialMethod, Batch, Method, Terms
from fastadv.distill.parts.features import logits_of
from fastadv.distill.parts.float32_output import Float32Output
from fastadv.distill.parts.optimizer_step import OptimizerStep, Weighted
from fastadv.distill.parts.processes import Processes
from fastadv.distill.parts.seeding import derive_seed
from fastadv.ops import checks


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step's batch, computed by itself.

    x: images [N, ...]. y: classes [N]. index: see :class:`Batch`. share: of the step's images, over all processes.
    number: its place among the step's parts, over all processes. label_smoothing, mixed: see :class:`Batch`.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None
    share: float
    number: int
    label_smoothing: float = 0.0
    mixed: tuple[Tensor, float] | None = None


class StepTerms(NamedTuple):
    """The terms of a step, detached, by name: the student's, and the adversary's where it took a step too."""

    student: Terms
    adversary: Terms | None


@dataclass
class Stage:
    """The warm-up or the training itself: ``total`` steps, of which ``done`` are done."""

    kind: str
    total: int
    steps_per_epoch: int | None
    done: int = 0

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    @property
    def progress(self) -> float:
        """The share of its steps that is done."""
        return self.done / self.total

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0: at the end of an epoch the number of epochs finished."""
        return self.done // (self.steps_per_epoch or self.total)

    @property
    def between_epochs(self) -> bool:
        return self.done % (self.steps_per_epoch or self.total) == 0


class Distiller:
    """``method`` trains ``student`` from ``teacher``, a step at a time, in a loop of your own.

    It counts steps and epochs, from which schedules follow; derives the seed of each step; builds the modules that the
    method trains beside the student and adds them to ``optimizer``; starts epochs; warms up where the method does; and
    trains its adversary. ``step(x, y)`` is a whole step. ``terms(x, y)``, for loops that call backward themselves,
    gives the terms of the loss; ``stepped()`` follows the optimizer's step.

    Steps depend on ``seed`` and their number alone, and leave the global generators as they found them. With the
    ``state_dict`` of student and distiller a stopped loop goes on bit for bit.

    Args:
        method: any :class:`Method`.
        student, teacher: modules from images to logits [N, C], or to an output with ``logits``; the student also under
            torch.compile or DistributedDataParallel, whose processes then share each step equally. The teacher is only
            read; None where the method needs none. The student stays in the mode you put it in.
        optimizer: of the student's parameters. The method's own are added to its first group, at the first step. An
            adversary's rate is to its own as the first group's is to the rate that its schedule began with (OneCycleLR:
            to ``max_lr``), and without a schedule to that it was made with.
        total_steps: steps of training; or ``epochs`` of ``steps_per_epoch``. With all three, the smaller number counts.
        seed: of all random numbers.
        images: number of training images; methods that remember each (CRD) need it, and ``index`` at each step.
        example: images [N, ...] to build the method with; None takes those of the first step.
        autocast: dtype in which the student runs; losses are computed in float32. None leaves it to its weights and to
            your own torch.autocast.
        scaler: of the loss, for float16.
        clip_norm: largest l2 norm of the gradient, above 0; None disables clipping. For ``step`` alone.
        compile: run the student through torch.compile, as one graph. Of a student that torch.compile made, methods that
            compare features run the module inside, uncompiled: give that, and compile=True.
        warm_up_optimizer: makes that of ``method.warm_up_parameters()`` for ``method.warm_up_epochs``, which come
            before the ``epochs`` of training, in which the student learns: loop ``while not distiller.finished``. None
            makes one like ``optimizer``, and warns of the warm-up.
        processes: those that share each step; None is those of a student under DistributedDataParallel.

    Raises:
        TypeError: an argument is of the wrong type, or the method needs a teacher and gets None.
        ValueError: the number of steps is not given, or no epochs or images for a method that needs them; an argument
            is out of range; a rate of 0, which an adversary's cannot follow; at the first step, what the method
            refuses, and student and teacher with different numbers of classes.
    """

    def __init__(
        self,
        method: Method,
        student: nn.Module,
        teacher: nn.Module | None,
        optimizer: Optimizer,
        *,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        images: int | None = None,
        example: Tensor | None = None,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip_norm: float | None = None,
        compile: bool = False,
        warm_up_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        processes: Processes | None = None,
    ) -> None:
        _check_arguments(method, student, teacher, optimizer, seed)
        _check_settings(method, images, clip_norm)
        self.method, self.teacher, self.optimizer, self.seed = method, teacher, optimizer, seed
        self._wrapper = student if isinstance(student, DistributedDataParallel) else None
        # Gradients are added here and not by DDP, which expects one call of the network a step.
        self.model: nn.Module = student if self._wrapper is None else self._wrapper.module
        self._processes = processes or (_alone() if self._wrapper is None else Processes(self._wrapper.process_group))
        self.student: nn.Module = self.model
        # As methods are built with it: what it computes in, and whether it is compiled, is no matter of theirs.
        self._own: nn.Module = self.model
        self._autocast, self._compile = autocast, compile
        self._images, self._clip_norm = images, clip_norm
        self._device = next(self.model.parameters()).device
        self._scaler = scaler or torch.amp.GradScaler(self._device.type, enabled=False)
        total = _total_steps(method, total_steps, epochs, steps_per_epoch)
        self.training = Stage("train", total, steps_per_epoch)
        self.warm_up = None
        if method.warm_up_epochs:
            assert steps_per_epoch is not None
            steps = min(method.warm_up_epochs * steps_per_epoch, total_steps or method.warm_up_epochs * steps_per_epoch)
            self.warm_up = Stage("warm-up", steps, steps_per_epoch)
            # Whoever gives its optimizer knows of it.
            if warm_up_optimizer is None:
                warnings.warn(
                    f"{_name(method)} warms up first: {steps} steps come before the {total} of training; loop while "
                    "not distiller.finished, and give warm_up_optimizer, lambda parameters: an optimizer of these",
                    stacklevel=2,
                )
        self._warm_up_optimizer = warm_up_optimizer
        self._steps: dict[str, OptimizerStep] = {}
        self._made_with = float(optimizer.param_groups[0]["lr"])
        if isinstance(method, AdversarialMethod) and not self._peak > 0:
            raise ValueError(
                f"optimizer must have a learning rate above 0 for {_name(method)}, whose adversary's follows it, "
                f"got {self._peak}"
            )
        self._pending: Batch | None = None
        self._started: int | None = None  # the newest epoch
        self._example: Tensor | None = None
        self.newest: StepTerms | None = None
        if example is not None:
            self.build(example)

    @property
    def stages(self) -> list[Stage]:
        return [self.training] if self.warm_up is None else [self.warm_up, self.training]

    @property
    def stage(self) -> Stage:
        """The stage of the next step; after the last, the training proper."""
        return next((stage for stage in self.stages if not stage.finished), self.training)

    def rate_of(self, stage: Stage) -> float:
        """Return the learning rate of the stage's newest step."""
        return self._steps[stage.kind].rate

    @property
    def total_steps(self) -> int:
        """All steps, of the warm-up and of training."""
        return sum(stage.total for stage in self.stages)

    @property
    def finished(self) -> bool:
        return self.training.finished

    def step(self, x: Tensor, y: Tensor | None = None, *, index: Tensor | None = None) -> Tensor:
        """Take a whole step on images ``x`` [N, ...] of classes ``y`` [N]; return its loss, detached.

        y may be left out where the method looks at none (:class:`RSLAD`, :class:`AdaAD`, :class:`DataFree`).
        Of a method that needs no images, x counts by its length alone, but for the first one where ``example`` was not
        given, whose shape is that of images. index: see :class:`Batch`. All terms are in ``newest``.

        Raises what the method raises, TypeError where y is missing, and RuntimeError after the last step.
        """
        share, number = 1 / self._processes.count, self._processes.rank
        return self.step_on([MicroBatch(x, self._classes(x, y), index, share, number)]).student["loss"]

    def step_on(self, micro_batches: Sequence[MicroBatch]) -> StepTerms:
        """Take a whole step on the parts of a batch that this process computes, one after the other.

        Their gradients are added, each by its share, before the optimizer's step, as one batch too large for the memory
        would give them. Raises what ``step`` does.
        """
        stage, batches = self._begin(micro_batches)
        if stage is self.warm_up:
            with self._seeded("warm-up step", stage.done):
                terms = self._steps["warm-up"].step(batches, self._warm_up_terms)
            stage.done += 1
            self.newest = StepTerms(terms, None)
            return self.newest
        with self._seeded("step", stage.done):
            terms = self._steps["train"].step(batches, lambda batch: self.method(self.student, self.teacher, batch))
        self.newest = StepTerms(terms, self._step_adversary(batches))
        stage.done += 1
        return self.newest

    def terms(self, x: Tensor, y: Tensor | None = None, *, index: Tensor | None = None) -> Terms:
        """Return the terms of the loss on images ``x`` [N, ...] of classes ``y`` [N]: ``terms["loss"]`` is to be
        minimised by your backward and optimizer, after which you call ``stepped()``. y: see ``step``.

        DistributedDataParallel runs as it is, without what ``autocast`` and ``compile`` do for ``step``. With older
        versions of torch, methods that run a student with BatchNorm more than once a step need its
        ``broadcast_buffers=False``: it else writes to buffers that the backward pass reads.

        Raises TypeError where y is missing; RuntimeError where ``stepped()`` was not called since the last terms, in a
        warm-up, and of a student under DistributedDataParallel that cannot run as it is.
        """
        if self._pending is not None:
            raise RuntimeError(
                "terms() was called twice: call stepped() after each step of your optimizer, or step_on() for one step "
                "on several parts of a batch"
            )
        if self.warm_up is not None and not self.warm_up.finished:
            raise RuntimeError(f"{_name(self.method)} warms up first: call step() for {self.warm_up.total} steps")
        stage, [(batch, _)] = self._begin([MicroBatch(x, self._classes(x, y), index, 1.0, self._processes.rank)])
        if self._wrapper is not None:
            self._check_wrapped()
        self._pending = batch
        with self._seeded("step", stage.done):
            return self.method(self.student if self._wrapper is None else self._wrapper, self.teacher, batch)

    def stepped(self) -> None:
        """Count the step whose terms you minimised, and train the adversary where one is due."""
        if self._pending is None:
            raise RuntimeError("stepped() follows terms() and a step of your optimizer")
        batch, self._pending = self._pending, None
        self._step_adversary([Weighted(batch, 1 / self._processes.count)])
        self.training.done += 1

    def build(self, example: Tensor) -> None:
        """Build what the method makes of the networks, from ``example`` [N, ...]; otherwise the first step does it."""
        if self._example is not None:
            return
        self._check_networks(example)
        if not _gives_logits(self.model, example):
            self.student = self._own = Float32Output(self.model)
        if self.teacher is not None and not _gives_logits(self.teacher, example):
            self.teacher = Float32Output(self.teacher)
        with self._seeded("method", everywhere=True):
            images = len(example) if self._images is None else self._images
            self.method.build(self._own, self.teacher, example, images=images)
        self.method.to(self._device)
        if self._autocast is not None or self._compile:
            self.student = Float32Output(self.model, autocast=self._autocast, compiled=self._compile)
        group = self.optimizer.param_groups[0]["params"]
        known = {id(parameter) for each in self.optimizer.param_groups for parameter in each["params"]}
        group.extend(parameter for parameter in self.method.own_parameters() if id(parameter) not in known)
        self._steps["train"] = self._optimizer_step(self.optimizer, self._scaler)
        if self.warm_up is not None:
            parameters = list(self.method.warm_up_parameters())
            make = self._warm_up_optimizer or partial(_another, self.optimizer)
            self._steps["warm-up"] = self._optimizer_step(make(parameters))
        if isinstance(self.method, AdversarialMethod):
            self._steps["adversary"] = self._optimizer_step(self.method.adversary_optimizer())
        self._example = example[:1].detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """Return all but the networks: the method, the optimizers, the scalers, and the steps done."""
        return {
            "method": self.method.state_dict(),
            "notes": {name: part.notes for name, part in self.method.named_modules() if isinstance(part, Method)},
            "optimizers": {name: step.state_dict() for name, step in self._steps.items()},
            "steps": {stage.kind: stage.done for stage in self.stages},
            "started": self._started,
            "example": self._example,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, with the student as it was then. Before the first step."""
        if state["example"] is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # already warned of when it was built
                self.build(state["example"].to(self._device))
            self.method.load_state_dict(state["method"])
            for name, part in self.method.named_modules():
                if isinstance(part, Method):
                    part.notes = tuple(state["notes"][name])
            for name, step in self._steps.items():
                step.load_state_dict(state["optimizers"][name])
        for stage in self.stages:
            stage.done = state["steps"][stage.kind]
        self._started = state.get("started")  # which earlier versions did not keep

    def _begin(self, micro_batches: Sequence[MicroBatch]) -> tuple[Stage, list[Weighted]]:
        """Build where that is to do, start an epoch where one begins; the stage and its batches."""
        if self.finished:
            raise RuntimeError(f"all {self.total_steps} steps are done")
        self.build(micro_batches[0].x)
        stage = self.stage
        proper = stage is self.training
        # A step that failed and is taken again starts no second time.
        if proper and stage.between_epochs and self._started != stage.epoch:
            with self._seeded("start of epoch", stage.epoch, everywhere=True):
                self.method.start_epoch(self._own)
            self._started = stage.epoch
        seed = derive_seed(self.seed, "step" if proper else "warm-up step", stage.done)
        return stage, [
            Weighted(
                Batch(
                    part.x,
                    part.y,
                    progress=stage.progress,
                    # Noise belongs to the index of an image; without images, to the part.
                    seed=seed if self.method.needs_images else derive_seed(seed, "piece", part.number),
                    index=part.index,
                    label_smoothing=part.label_smoothing,
                    mixed=part.mixed,
                ),
                part.share,
            )
            for part in micro_batches
        ]

    @property
    def _peak(self) -> float:
        """The student's rate at which the adversary has its own: what a schedule gives shares of."""
        group = self.optimizer.param_groups[0]
        # OneCycleLR begins at a fraction of its largest rate, which it keeps here.
        return float(group.get("max_lr", group.get("initial_lr", self._made_with)))

    def _step_adversary(self, batches: Sequence[Weighted]) -> Terms | None:
        """Train the adversary, where that is due, on the batches of the student's step, whose results it may use."""
        method = self.method
        if not isinstance(method, AdversarialMethod) or (self.training.done + 1) % method.adversary_every:
            return None
        step = self._steps["adversary"]
        step.scale_rate(float(self.optimizer.param_groups[0]["lr"]) / self._peak)
        with self._seeded("adversary", self.training.done):
            return step.step(batches, lambda batch: method.adversary_terms(self.student, self.teacher, batch))

    def _classes(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return ``y``, or no class where the method looks at none. Raises TypeError where it is missing."""
        if y is not None:
            return y
        if self.method.needs_images and self.method.needs_labels:
            raise TypeError(f"y must be the classes [N] of x for {_name(self.method)}, got None")
        return torch.full((len(x),), -1, device=x.device)

    def _check_wrapped(self) -> None:
        """Raise RuntimeError where the wrapper, by which gradients are added, does not do what ``step`` does."""
        reason = None
        if any(True for _ in self.method.own_parameters()):
            reason = f"{_name(self.method)} trains parameters that DistributedDataParallel does not hold"
        elif self._autocast is not None:
            reason = f"autocast={self._autocast} is for step(); enter torch.autocast around terms() in its place"
        elif self._compile:
            reason = "compile=True is for step(); pass the student through torch.compile before"
        elif self.student is not self.model:
            reason = "the student gives an output that holds logits; wrap it in fastadv.attacks.Logits before"
        if reason is not None:
            raise RuntimeError(f"terms() under DistributedDataParallel: {reason}, or call step()")

    def _warm_up_terms(self, batch: Batch) -> Terms:
        return self.method.warm_up_terms(self.teacher, batch)

    def _optimizer_step(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> OptimizerStep:
        if scaler is None:
            scaler = torch.amp.GradScaler(self._device.type, enabled=self._scaler.is_enabled())
        trained = (self.model, self.method)
        return OptimizerStep(
            optimizer, processes=self._processes, trained=trained, scaler=scaler, clip_norm=self._clip_norm
        )

    @contextlib.contextmanager
    def _seeded(self, *labels: str | int, everywhere: bool = False) -> Iterator[None]:
        """The global generators seeded by the labels inside; afterwards as they were.

        everywhere: alike in all processes, which else draw apart.
        """
        seed = derive_seed(self.seed, *labels)
        if self._processes.rank and not everywhere:
            seed = derive_seed(seed, self._processes.rank)
        generators = _generators(self._device)
        states = [generator.get_state() for generator in generators]
        try:
            # torch.manual_seed would seed every device of this machine, whatever else runs there.
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

    def _check_networks(self, example: Tensor) -> None:
        """Raises ValueError where they have different numbers of classes, or there are more processes than can be."""
        if self._processes.count > 1 and any(part.remembers_images for part in self.method.parts()):
            raise ValueError(
                f"{_name(self.method)} remembers the images that its process saw: train it in one process, "
                f"got {self._processes.count}"
            )
        if self.teacher is None or not self.method.needs_teacher or example.dim() < 2:
            return
        networks = [self.model, self.teacher]
        with evaluating(networks), torch.no_grad():
            own, theirs = (logits_of(network(example[:1])).shape[-1] for network in networks)
        if own != theirs:
            raise ValueError(
                f"{_name(self.method)}: student and teacher must have the same number of classes, "
                f"got {own} and {theirs}"
            )


def _check_arguments(
    method: Method, student: nn.Module, teacher: nn.Module | None, optimizer: Optimizer, seed: int
) -> None:
    for name, value, kind in (("method", method, Method), ("student", student, nn.Module)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    if teacher is None and method.needs_teacher:
        raise TypeError(f"teacher must be a network for {_name(method)}, got None")


def _check_settings(method: Method, images: int | None, clip_norm: float | None) -> None:
    if clip_norm is not None:
        checks.positive("clip_norm", clip_norm)
    if images is not None:
        count("images", images, 1)
    elif any(part.remembers_images for part in method.parts()):
        raise ValueError(f"images must be given for {_name(method)}, which remembers each of them, got None")


def _total_steps(method: Method, total: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    given = {"total_steps": total, "epochs": epochs, "steps_per_epoch": steps_per_epoch}
    for name, value in given.items():
        if value is not None:
            count(name, value, 1)
    if epochs is not None and steps_per_epoch is None:
        raise ValueError(f"steps_per_epoch must be given with epochs, got epochs={epochs} alone")
    if epochs is not None and steps_per_epoch is not None:
        total = min(epochs * steps_per_epoch, total or epochs * steps_per_epoch)
    if total is None:
        raise ValueError("total_steps, or epochs and steps_per_epoch, must be given: schedules depend on them")
    needs_epochs = method.warm_up_epochs or any(part.needs_epochs for part in method.parts())
    if needs_epochs and steps_per_epoch is None:
        raise ValueError(f"steps_per_epoch must be given for {_name(method)}, which counts epochs")
    return total


def _gives_logits(network: nn.Module, example: Tensor) -> bool:
    """Return whether ``network`` gives logits alone, and not an output that holds them."""
    if example.dim() < 2:
        return True
    with evaluating([network]), torch.no_grad():
        return isinstance(network(example[:1]), Tensor)


def _alone() -> Processes:
    processes = Processes()
    processes.rank, processes.count = 0, 1
    return processes


def _generators(device: torch.device) -> list[torch.Generator]:
    """Return the global generators that draw on the CPU and on ``device``."""
    own: list[torch.Generator] = []
    if device.type in ("cuda", "xpu"):
        own = [torch.get_device_module(device).default_generators[device.index]]
    elif device.type == "mps":
        own = [torch.mps._get_default_mps_generator()]
    return [torch.default_generator, *own]


def _another(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Optimizer:
    """Return an optimizer of ``parameters``, of the kind and with the settings that ``optimizer`` was made with."""
    kind: Any = type(optimizer)
    # Among the defaults of AdamW is one that its constructor does not take.
    known = inspect.signature(kind).parameters
    return kind(parameters, **{name: value for name, value in optimizer.defaults.items() if name in known})


def _name(method: Method) -> str:
    return type(method).__name__
