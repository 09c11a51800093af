"""Train one network with one method, so that a killed run ends with the same weights as one that was not."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastadv.distill import AdversarialMethod, Method
from fastadv.train.config.train_config import Config
from fastadv.train.data.augment import EpochPlan
from fastadv.train.data.splits import Split
from fastadv.train.loop.batches import Batches, MicroBatch
from fastadv.train.loop.evaluation import clean_accuracy, evaluate
from fastadv.train.loop.optimizer_step import OptimizerStep
from fastadv.train.loop.schedule import Stage, learning_rate
from fastadv.train.networks.classifier import Classifier
from fastadv.train.networks.float32_output import DTYPES, Float32Output
from fastadv.train.runtime.checkpoint import Checkpoints, why_refused
from fastadv.train.runtime.errors import CheckpointError, ConfigError, DivergenceError
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.metrics import MeanTerms, MetricsLog
from fastadv.train.runtime.processes import Processes
from fastadv.train.runtime.progress import Progress
from fastadv.train.runtime.seeding import derive_seed
from fastadv.train.runtime.stopwatch import Stopwatch


class Trainer:
    """SGD on `method` for config.epochs (at most config.max_steps), evaluated on `test`.

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
        self.model, self.method, self.teacher = model, method, teacher
        self.test = test
        self.config, self.seed, self.folder, self.label = config, seed, folder, label
        self.device = test.images.device
        self.processes = Processes()
        self.batches = Batches(train, config, self.processes, images=method.needs_images, device=self.device)
        self._build(len(train))

        self.student: nn.Module = model
        if config.precision != "float32" or config.compile:
            autocast = None if config.precision == "float32" else DTYPES[config.precision]
            self.student = Float32Output(model, autocast=autocast, compiled=config.compile)
        parameters = [*model.parameters(), *method.own_parameters()]
        self.training = self._stage("train", config.epochs, parameters, lr=config.lr)
        self.warm_up = None
        if method.warm_up_epochs:
            lr = config.lr if config.warm_up_lr is None else config.warm_up_lr
            self.warm_up = self._stage("warm-up", method.warm_up_epochs, [*method.warm_up_parameters()], lr=lr)
        self.stages = [self.training] if self.warm_up is None else [self.warm_up, self.training]
        self.adversary = None
        if isinstance(method, AdversarialMethod):
            self.adversary = self._optimizer_step_of(method.adversary_optimizer())
        self.average = None if config.ema is None else _averaged(model, config.ema)

        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.terms, self.adversary_terms = MeanTerms(), MeanTerms()
        self.images_seen = 0
        self.stopwatch = Stopwatch(self.device)

    @property
    def step(self) -> int:
        """The number of steps of the training proper that are done."""
        return self.training.done

    @property
    def evaluated(self) -> Classifier:
        """The network whose accuracy and weights count."""
        return self.model if self.average is None else cast(Classifier, self.average.module)

    def fit(self) -> dict[str, Any]:
        """Train what is left to train, evaluate, write and return the result.

        Result: "clean" and "pgd" (accuracy in [0, 1]), "images_per_second" and "seconds" of training alone, "steps",
        and the method's "notes".
        Raises DivergenceError when the loss is not finite, CheckpointError when every checkpoint is damaged, and where
        processes end up with different states.
        """
        position = self._restore()
        log = None
        if self.processes.first:
            log = MetricsLog(self.folder, position=position, step=self.step, tensorboard=self.config.tensorboard)
        progress = Progress(
            self.label,
            done=self._steps_done(),
            total=sum(stage.total for stage in self.stages),
            images_per_step=self.config.batch_size,
            shown=self.processes.first,
        )
        # Layers such as dropout draw from the global generator: each step seeds it, and it is left as it was found.
        with self._generator_kept(), progress, self.stopwatch.running():
            for stage in self.stages:
                while not stage.finished:
                    self._run_epoch(stage, log, progress)
        if log is not None:
            log.close()
        result = {
            **evaluate(self.evaluated, self.test, self.config),
            "images_per_second": self.images_seen / self.stopwatch.seconds,
            "seconds": self.stopwatch.seconds,
            "steps": self.step,
            "notes": [note for part in self.method.parts() for note in part.notes],
        }
        if self.processes.first:
            weights = self.evaluated.network.state_dict()
            write_atomically(self.folder / "weights.pt", lambda file: torch.save(weights, file))
            write_atomically(self.folder / "result.json", lambda file: file.write(json.dumps(result).encode()))
        return result

    def _run_epoch(self, stage: Stage, log: MetricsLog | None, progress: Progress) -> None:
        """The steps from here to the end of the epoch or of the stage, with what is due after each."""
        epoch, proper = stage.epoch, stage is self.training
        plan = self.batches.plan(seed=self.seed if proper else derive_seed(self.seed, "warm-up"), epoch=epoch)
        if proper and stage.between_epochs:
            torch.manual_seed(derive_seed(self.seed, "start of epoch", epoch))
            self.method.start_epoch(self.model)
        for index in stage.rest_of_epoch():
            if proper:
                self._train_step(plan, epoch, index)
            else:
                self._warm_up_step(plan, index)
            progress.step()
            if stage.finished or stage.done % self.config.log_steps == 0:
                progress.loss(self._log_terms(stage, log))
            if proper and stage.ended(epochs=self.config.eval_epochs):
                with self.stopwatch.paused():
                    accuracy = clean_accuracy(self.evaluated, self.test, self.config)
                    if log is not None:
                        log.write("test", stage.done, {"accuracy": accuracy})
            by_step = self.config.checkpoint_steps is not None and stage.done % self.config.checkpoint_steps == 0
            if by_step or stage.ended(epochs=self.config.checkpoint_epochs):
                with self.stopwatch.paused():
                    self._save(log)

    def _train_step(self, plan: EpochPlan | None, epoch: int, index: int) -> None:
        """One batch of the epoch. Reads nothing back from the device."""
        method, stage = self.method, self.training
        seed = self._seed_step("step", self.step)
        self.model.train()
        micro_batches = self.batches.micro_batches(plan, index, progress=stage.progress, seed=seed)
        stage.optimizer_step.schedule(
            lambda rate: learning_rate(rate, self.config, epoch=epoch, progress=self.training.progress)
        )
        self.terms.add(
            stage.optimizer_step.step(micro_batches, lambda batch: method(self.student, self.teacher, batch))
        )
        if self.average is not None:
            _update(self.average, self.model)
        if isinstance(method, AdversarialMethod) and (self.step + 1) % method.adversary_every == 0:
            self._adversary_step(method, micro_batches, epoch)
        stage.done += 1
        self.images_seen += self.batches.size(index)

    def _adversary_step(self, method: AdversarialMethod, micro_batches: list[MicroBatch], epoch: int) -> None:
        """The adversary's step against the student, on the very batch of its step: what was computed may be reused."""
        assert self.adversary is not None
        self._seed_step("adversary", self.step)
        self.adversary.schedule(
            lambda rate: learning_rate(rate, self.config, epoch=epoch, progress=self.training.progress)
        )
        terms = self.adversary.step(
            micro_batches, lambda batch: method.adversary_terms(self.student, self.teacher, batch)
        )
        self.adversary_terms.add({f"adversary_{name}": term for name, term in terms.items()})

    def _warm_up_step(self, plan: EpochPlan | None, index: int) -> None:
        """One batch of the warm-up, at a constant rate."""
        stage = self.warm_up
        assert stage is not None
        seed = self._seed_step("warm-up step", stage.done)
        micro_batches = self.batches.micro_batches(plan, index, progress=stage.progress, seed=seed)
        self.terms.add(
            stage.optimizer_step.step(micro_batches, lambda batch: self.method.warm_up_terms(self.teacher, batch))
        )
        stage.done += 1

    def _build(self, images: int) -> None:
        """Build the method's modules, from a seed of its own; with config.capture, graphs of its attacks."""
        example = self.batches.example(self.test.images.shape[1:])
        with self._generator_kept():
            torch.manual_seed(derive_seed(self.seed, "method"))
            try:
                self.method.build(self.model, self.teacher, example, images=images)
                if self.config.capture:
                    self.method.capture_ascents(self.device)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{self.label}: {error}") from error
        self.method.to(self.device)

    def _stage(self, kind: str, epochs: int, parameters: list[nn.Parameter], *, lr: float) -> Stage:
        """`epochs` of SGD as configured, but for the rate; at most config.max_steps steps."""
        config, steps_per_epoch = self.config, self.batches.steps_per_epoch
        optimizer = torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            # The only SGD that a GradScaler steps without reading back whether a gradient overflowed.
            fused=True if config.precision == "float16" else None,
        )
        total = min(epochs * steps_per_epoch, config.max_steps or sys.maxsize)
        return Stage(kind, self._optimizer_step_of(optimizer), total, steps_per_epoch)

    def _optimizer_step_of(self, optimizer: torch.optim.Optimizer) -> OptimizerStep:
        modules = [*self.model.modules(), *self.method.modules()]
        norms = [module for module in modules if isinstance(module, _BatchNorm) and module.training]
        statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
        return OptimizerStep(
            optimizer,
            processes=self.processes,
            statistics=statistics,
            scaler=torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "float16"),
            clip_norm=self.config.clip_norm,
        )

    def _learning_rate(self, peak: float, epoch: int) -> float:
        return learning_rate(peak, self.config, epoch=epoch, progress=self.training.progress)

    def _seed_step(self, *labels: str | int) -> int:
        """Seed the global generator, differently in each process; the seed of the method's own noise, one for all."""
        seed = derive_seed(self.seed, *labels)
        torch.manual_seed(seed if self.processes.first else derive_seed(seed, self.processes.rank))
        return seed

    @contextmanager
    def _generator_kept(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield

    def _log_terms(self, stage: Stage, log: MetricsLog | None) -> float:
        """Write the means since the last writing; the mean loss."""
        means = {**self.terms.read(), **self.adversary_terms.read()}
        if not math.isfinite(means["loss"]):
            raise DivergenceError(
                f"{self.label}: the mean loss up to step {self.step} is {means['loss']}; try a lower lr"
            )
        if log is not None:
            log.write(stage.kind, stage.done, {**means, "lr": stage.optimizer_step.rate})
        return means["loss"]

    def _steps_done(self) -> int:
        return sum(stage.done for stage in self.stages)

    def _save(self, log: MetricsLog | None) -> None:
        differing = self.processes.differing(self._tensors())
        if differing:
            raise CheckpointError(
                f"{self.label}: {', '.join(differing[:3])} are not the same in all {self.processes.count} processes; "
                f"train {type(self.method).__name__} in one process"
            )
        if log is None:
            return
        content = {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "steps": {stage.kind: stage.done for stage in self.stages},
            "metrics_position": log.sync(),
            "images_seen": self.images_seen,
            "seconds": self.stopwatch.seconds,
        }
        self.checkpoints.save(self._steps_done(), content)

    def _restore(self) -> int:
        """Continue from the newest whole checkpoint, if there is one; the position of the metrics there."""
        content = self.checkpoints.load_newest(device=self.device, warn=print)
        if content is None:
            return 0
        other = "the newest checkpoint, which another version of fastadv wrote; train anew"
        if missing := {"steps", *self._parts()} - content.keys():
            raise CheckpointError(f"{self.checkpoints.folder}: no {', '.join(sorted(missing))} in {other}")
        for name, part in self._parts().items():
            try:
                part.load_state_dict(content[name])
            except (RuntimeError, KeyError, ValueError) as error:
                reason = why_refused(error)
                raise CheckpointError(f"{self.checkpoints.folder}: another {name} ({reason}) in {other}") from error
        for stage in self.stages:
            stage.done = content["steps"][stage.kind]
        self.images_seen = content["images_seen"]
        self.stopwatch = Stopwatch(self.device, content["seconds"])
        print(f"{self.label}: continuing after step {self.step} of {self.training.total}", flush=True)
        return content["metrics_position"]

    def _parts(self) -> dict[str, Any]:
        """The parts of a checkpoint, by the names of the first version, whose checkpoints go on."""
        parts = {
            "model": self.model,
            "method": self.method,
            "average": self.average,
            "adversary descent": self.adversary,
            "terms": self.terms,
            "adversary_terms": self.adversary_terms,
            **{f"{stage.kind} descent": stage.optimizer_step for stage in self.stages},
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _tensors(self) -> dict[str, Tensor]:
        """Return what every process must agree on, by name."""
        modules = {"model": self.model, "method": self.method}
        return {f"{name}.{key}": tensor for name, part in modules.items() for key, tensor in part.state_dict().items()}


def _averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of weights and BatchNorm statistics: a = decay a + (1 - decay) w.

    Both, because newer statistics are not those of older weights.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    average.module.requires_grad_(False)
    return average


@torch.no_grad()
def _update(average: AveragedModel, model: nn.Module) -> None:
    """Take in the model as it is now; counters, which have no average, as they are."""
    average.update_parameters(model)
    for mine, theirs in zip(average.module.buffers(), model.buffers(), strict=True):
        if not theirs.is_floating_point():
            mine.copy_(theirs)
