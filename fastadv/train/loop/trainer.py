"""Train one network with one method, so that a killed run ends with the same weights as one that was not."""

import contextlib
import itertools
import json
import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastadv.attacks.model.values import NotFiniteError, not_finite
from fastadv.distill import Distiller, Method
from fastadv.distill.distiller import Stage
from fastadv.distill.parts.float32_output import DTYPES, Float32Output
from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.config.config_model import flattened
from fastadv.train.config.train_config import Config
from fastadv.train.data.augment import EpochPlan
from fastadv.train.data.splits import Split, to_pixels
from fastadv.train.loop.batches import Batches
from fastadv.train.loop.evaluation import accuracy, evaluate
from fastadv.train.networks.classifier import Classifier
from fastadv.train.runtime.checkpoint import Checkpoints, why_refused
from fastadv.train.runtime.errors import CheckpointError, ConfigError, DivergenceError
from fastadv.train.runtime.files import write_atomically, write_text
from fastadv.train.runtime.metrics import MeanTerms, MetricsLog
from fastadv.train.runtime.processes import Processes
from fastadv.train.runtime.progress import Progress
from fastadv.train.runtime.stopping import asked_to_stop, deferred, stop_if_asked
from fastadv.train.runtime.stopwatch import Stopwatch

# The share of a one-cycle training in which the rate rises.
_RISE = 0.3


class Trainer:
    """A Distiller of `method` for config.epochs (at most config.max_steps), evaluated on `test`.

    All randomness derives from (seed, step) or (seed, epoch). `folder` receives metrics.jsonl, checkpoints/, and at the
    end weights.pt (a plain state_dict of the network's, of the averaged one with config.ema) and result.json. A folder
    that holds checkpoints is continued. Where torchrun started several processes, each has a Trainer of its own; they
    share every batch and every evaluation, and the first writes.
    """

    def __init__(
        self,
        *,
        model: Classifier,
        method: Method,
        teacher: nn.Module | None,
        train: Split,
        test: Split,
        config: Config,
        seed: int,
        folder: Path,
        label: str,
    ) -> None:
        self.model, self.method, self.test = model, method, test
        self.config, self.seed, self.folder, self.label = config, seed, folder, label
        self.device = test.images.device
        self.processes = Processes()
        self.batches = Batches(train, config, self.processes, images=method.needs_images, device=self.device)
        self.model.train()
        try:
            self.distiller = self._distiller(teacher, images=len(train))
            if config.capture:
                method.capture_ascents(self.device)
            elif config.compile:
                method.compile_copies()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{label}: {error}") from error
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.terms, self.adversary_terms = MeanTerms(), MeanTerms()
        # A checkpoint holds the state_dict of each.
        self._parts: dict[str, Any] = {"model": model, "distiller": self.distiller, "terms": self.terms}
        self._parts["adversary_terms"] = self.adversary_terms
        # a = decay a + (1 - decay) w, of weights and BatchNorm statistics: newer statistics do not fit older weights.
        self.average: AveragedModel | None = None
        if config.ema is not None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
            self._parts["average"] = self.average.requires_grad_(False)
        self.images_seen = 0
        self.stopwatch = Stopwatch(self.device)

    @property
    def step(self) -> int:
        """The number of steps of the training proper that are done."""
        return self.distiller.training.done

    @property
    def evaluated(self) -> Classifier:
        """The network whose accuracy and weights count."""
        return self.model if self.average is None else cast(Classifier, self.average.module)

    def fit(self) -> dict[str, Any]:
        """Train what is left to train, evaluate, write and return the result.

        Result: "clean" and "pgd" (accuracy in [0, 1]), "images_per_second" and "seconds" of training alone, "steps",
        "epochs", and the method's "notes".
        Raises Stopped after a step that a signal came in, with a checkpoint of it; DivergenceError when the loss is not
        finite; CheckpointError when every checkpoint is damaged, and where processes end up with different states.
        """
        position = self._restore()
        log = None
        if self.processes.first:
            log = MetricsLog(
                self.folder,
                position=position,
                step=self.step,
                warm_up=None if (warm_up := self.distiller.warm_up) is None else warm_up.done,
                tensorboard=self.config.tensorboard,
            )
        progress = Progress(
            self.label,
            done=self._steps_done(),
            total=self.distiller.total_steps,
            images_per_step=self.config.batch_size,
            shown=self.processes.first,
        )
        # Of several processes each would stop at a step of its own.
        patient = deferred() if self.processes.count == 1 else contextlib.nullcontext()
        with patient, progress:
            self.stopwatch.start()
            while not self.distiller.finished:
                self._run_epoch(self.distiller.stage, log, progress)
            self.stopwatch.stop()
        if log is not None:
            log.close()
        result = {
            **evaluate(self.evaluated, self.test, self.config),
            "images_per_second": self.images_seen / self.stopwatch.seconds,
            "seconds": self.stopwatch.seconds,
            "steps": self.step,
            "epochs": self.config.epochs,
            "notes": [
                *(note for part in self.method.parts() for note in part.notes),
                *self._too_coarse(),
                *self._rounding(),
            ],
        }
        if self.processes.first:
            weights = self.evaluated.network.state_dict()
            write_atomically(self.folder / "weights.pt", lambda file: torch.save(weights, file))
            write_text(self.folder / "result.json", json.dumps(result))
        return result

    def _run_epoch(self, stage: Stage, log: MetricsLog | None, progress: Progress) -> None:
        """Take the steps from here to the end of the epoch or of the stage, with what is due after each."""
        config, epoch, proper = self.config, stage.epoch, stage is self.distiller.training
        plan = self.batches.plan(seed=self.seed if proper else derive_seed(self.seed, "warm-up"), epoch=epoch)
        first, steps = stage.done % self.batches.steps_per_epoch, self.batches.steps_per_epoch
        for index in range(first, min(steps, first + stage.total - stage.done)):
            self._train_step(plan, epoch, index)
            progress.step()
            if stage.finished or stage.done % config.log_steps == 0:
                progress.note(f"loss {self._log_terms(stage, log):.4f}")
            if proper and _ended(stage, every=config.eval_epochs):
                with self.stopwatch.paused():
                    found = accuracy(self.evaluated, self.test, config)
                    if log is not None:
                        log.write("test", stage.done, {"accuracy": found})
            by_step = config.checkpoint_steps is not None and stage.done % config.checkpoint_steps == 0
            if by_step or asked_to_stop() or _ended(stage, every=config.checkpoint_epochs):
                with self.stopwatch.paused():
                    self._save(log)
            stop_if_asked()

    def _train_step(self, plan: EpochPlan | None, epoch: int, index: int) -> None:
        """Take the step on batch `index` of the epoch. Reads nothing back from the device."""
        stage = self.distiller.stage
        proper = stage is self.distiller.training
        own, alpha = 1.0, self.config.mixup
        if proper and alpha is not None:
            own = random.Random(derive_seed(self.seed, "mixup", stage.done)).betavariate(alpha, alpha)
        self.model.train()
        if proper:
            rate = learning_rate(self.config, epoch=epoch, progress=stage.progress)
            for group in self.distiller.optimizer.param_groups:
                group["lr"] = rate
        try:
            found = self.distiller.step_on(self.batches.micro_batches(plan, index, own))
        except NotFiniteError as error:  # of an attack on the student, which looks before the log does
            raise DivergenceError(f"{self.label}: after step {self.step}, {error}; {self._advice()}") from error
        self.terms.add(found.student)
        if found.adversary is not None:
            self.adversary_terms.add({f"adversary_{name}": term for name, term in found.adversary.items()})
        if proper:
            self.images_seen += self.batches.size(index)
            if self.average is not None:
                _update(self.average, self.model)

    def _distiller(self, teacher: nn.Module | None, *, images: int) -> Distiller:
        config = self.config
        return Distiller(
            self.method,
            self.model,
            teacher,
            self._optimizer(list(self.model.parameters()), config.lr),
            epochs=config.epochs,
            steps_per_epoch=self.batches.steps_per_epoch,
            total_steps=config.max_steps,
            seed=self.seed,
            images=images,
            example=self.batches.example(self.test.images.shape[1:]),
            autocast=None if config.precision == "float32" else DTYPES[config.precision],
            scaler=torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16"),
            clip_norm=config.clip_norm,
            compile=config.compile,
            warm_up_optimizer=lambda parameters: self._optimizer(parameters, config.warm_up_lr or config.lr),
            processes=self.processes,
        )

    def _optimizer(self, parameters: list[nn.Parameter], lr: float) -> Optimizer:
        config = self.config
        options: dict[str, Any] = {"lr": lr, "weight_decay": config.weight_decay}
        if config.optimizer == "SGD":
            # The only SGD that a GradScaler steps without reading back whether a gradient overflowed.
            fused = True if config.precision == "float16" else None
            options |= {"momentum": config.momentum, "nesterov": config.nesterov, "fused": fused}
        return getattr(torch.optim, config.optimizer)(parameters, **options)

    def _log_terms(self, stage: Stage, log: MetricsLog | None) -> float:
        """Write the means since the last writing; return the mean loss."""
        means = {**self.terms.read(), **self.adversary_terms.read()}
        if not math.isfinite(means["loss"]):
            raise DivergenceError(
                f"{self.label}: the mean loss up to step {self.step} is {means['loss']}; {self._advice()}"
            )
        if log is not None:
            log.write(stage.kind, stage.done, {**means, "lr": self.distiller.rate_of(stage)})
        return means["loss"]

    def _advice(self) -> str:
        """Return what to do about values that are not finite."""
        teacher = self.distiller.teacher
        broken = not_finite(teacher) if isinstance(teacher, nn.Module) else None
        return f"the teacher is not finite in its {broken}" if broken else "try a lower lr"

    def _too_coarse(self) -> list[str]:
        """Return a note where a network computes in half precision and the method needs float32."""
        low = {self.config.precision, self.config.teacher_precision} - {"float32"}
        if not low or not any(part.needs_float32 for part in self.method.parts()):
            return []
        return [
            f"in {' and '.join(sorted(low))} the samples are rounding noise: they lie nearer to their images than that "
            "resolves; train with --precision float32 --teacher-precision float32"
        ]

    @torch.no_grad()
    def _rounding(self) -> list[str]:
        """Return a note on how far the network in config.precision is from itself in float32, as it is evaluated."""
        config, network = self.config, self.evaluated.eval()
        if config.precision == "float32":
            return []
        split = self.test[: config.eval_batch_size]
        x = to_pixels(split.images, channels_last=config.channels_last)
        exact = network(x)
        rounded = Float32Output(network, autocast=DTYPES[config.precision])(x)
        losses = [cross_entropy(logits, split.labels).item() for logits in (rounded, exact)]
        return [
            f"in {config.precision} the student's logits lie within {(rounded - exact).abs().max():.2g} of those in "
            f"float32, of up to {exact.abs().max():.3g}, and its cross-entropy is {losses[0]:.4f} for {losses[1]:.4f}, "
            f"on {len(x)} test images; accuracies are float32's"
        ]

    def _steps_done(self) -> int:
        return sum(stage.done for stage in self.distiller.stages)

    def _save(self, log: MetricsLog | None) -> None:
        if differing := self.processes.differing(self._tensors()):
            raise CheckpointError(
                f"{self.label}: {', '.join(differing[:3])} are not the same in all {self.processes.count} processes; "
                f"train {type(self.method).__name__} in one process"
            )
        if log is None:
            return
        content = {
            **{name: part.state_dict() for name, part in self._parts.items()},
            "metrics_position": log.sync(),
            "processes": self.processes.count,
            "images_seen": self.images_seen,
            "seconds": self.stopwatch.seconds,
        }
        self.checkpoints.save(self._steps_done(), content)

    def _restore(self) -> int:
        """Continue from the newest whole checkpoint, if there is one; return the position of the metrics there."""
        content = self.checkpoints.load_newest(device=self.device, warn=print)
        if content is None:
            return 0
        # Checkpoints of earlier versions do not know it.
        count = content.get("processes", self.processes.count)
        if count != self.processes.count:
            raise ConfigError(
                f"resume: {self.label} was begun by {count} processes, expected as many, got {self.processes.count}: "
                "BatchNorm sees the part of a batch that a process has"
            )
        other = "the newest checkpoint, which another version of fastadv wrote; train anew"
        if missing := self._parts.keys() - content.keys():
            raise CheckpointError(f"{self.checkpoints.folder}: no {', '.join(sorted(missing))} in {other}")
        for name, part in self._parts.items():
            try:
                part.load_state_dict(content[name])
            except (RuntimeError, KeyError, ValueError) as error:
                reason = why_refused(error)
                raise CheckpointError(f"{self.checkpoints.folder}: another {name} ({reason}) in {other}") from error
        self.images_seen = content["images_seen"]
        self.stopwatch.seconds = content["seconds"]
        print(f"{self.label}: continuing after step {self.step} of {self.distiller.training.total}", flush=True)
        return content["metrics_position"]

    def _tensors(self) -> dict[str, Tensor]:
        """Return what every process must agree on, by name."""
        return flattened({"model": self.model.state_dict(), "method": self.method.state_dict()})


def learning_rate(config: Config, *, epoch: int, progress: float) -> float:
    """Return the learning rate of a step by config.schedule, which is lr times a factor.

    "cosine": (1 + cos(pi progress)) / 2, progress the share of the steps that are done, in [0, 1).
    "one-cycle": up in a cosine from 1/25 to 1 at 0.3 of the progress, and down in one towards 0: the numbers of
    torch.optim.lr_scheduler.OneCycleLR, whose momentum is not cycled here.
    "step": lr_decay^(number of milestones at or before `epoch`), epochs counted from 0.
    """
    if config.schedule == "cosine":
        return _cosine(config.lr, progress)
    if config.schedule == "one-cycle":
        if progress < _RISE:
            return config.lr - _cosine(config.lr - config.lr / 25, progress / _RISE)
        return _cosine(config.lr, (progress - _RISE) / (1 - _RISE))
    return config.lr * config.lr_decay ** bisect_right(config.milestones, epoch)


def _cosine(lr: float, progress: float) -> float:
    return lr * (1 + math.cos(math.pi * progress)) / 2


def _ended(stage: Stage, *, every: int) -> bool:
    """Return whether the newest step was the last of all, or of an epoch that is a multiple of `every`."""
    return stage.finished or (stage.between_epochs and stage.epoch % every == 0)


@torch.no_grad()
def _update(average: AveragedModel, model: nn.Module) -> None:
    """Take in the model as it is now: the first as it is, and counters, which have no average, always.

    AveragedModel.update_parameters, of which this is the body, copies its own count to the device and waits for it.
    """
    pairs = list(zip(_state(average.module), _state(model), strict=True))
    mine, theirs = (list(each) for each in zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True))
    if average.n_averaged and average.multi_avg_fn is not None:
        average.multi_avg_fn(mine, theirs, average.n_averaged)
    else:
        torch._foreach_copy_(mine, theirs)
    for counter, newest in pairs:
        if not counter.is_floating_point():
            counter.copy_(newest)
    average.n_averaged += 1


def _state(model: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
