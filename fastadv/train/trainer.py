"""Train one network with one method, so that a killed run ends with the same weights as one that was not."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastadv.distill import AdversarialMethod, Method
from fastadv.train.augment import EpochPlan
from fastadv.train.average import WeightAverage
from fastadv.train.batches import Batches, Piece
from fastadv.train.checkpoint import Checkpoints, write_atomically
from fastadv.train.config import Config
from fastadv.train.datasets import Split
from fastadv.train.descent import Descent
from fastadv.train.errors import CheckpointError, ConfigError, DivergenceError
from fastadv.train.evaluation import clean_accuracy, evaluate
from fastadv.train.metrics import MeanTerms, MetricsLog
from fastadv.train.models import Classifier
from fastadv.train.precision import DTYPES, Shown
from fastadv.train.processes import Processes
from fastadv.train.progress import Progress
from fastadv.train.schedule import cosine_lr, step_lr
from fastadv.train.seeding import derive_seed
from fastadv.train.stopwatch import Stopwatch


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
        self.total_steps = self._steps(config.epochs)
        self.warm_up_steps = self._steps(method.warm_up_epochs)
        self._build(len(train))

        self.student: nn.Module = model
        if config.precision != "float32" or config.compile:
            autocast = None if config.precision == "float32" else DTYPES[config.precision]
            self.student = Shown(model, autocast=autocast, compiled=config.compile)
        self.descent = self._descent([*model.parameters(), *method.own_parameters()])
        self.warm_up = None
        if self.warm_up_steps:
            self.warm_up = self._descent([*method.warm_up_parameters()], lr=config.warm_up_lr)
        self.adversary = None
        if isinstance(method, AdversarialMethod):
            self.adversary = self._descent_of(method.adversary_optimizer())
        self.average = None if config.ema is None else WeightAverage(model, config.ema)

        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.terms, self.adversary_terms = MeanTerms(), MeanTerms()
        self.warmed = 0
        self.step = 0
        self.images_seen = 0
        self.stopwatch = Stopwatch(self.device)

    @property
    def evaluated(self) -> Classifier:
        """The network whose accuracy and weights count."""
        return self.model if self.average is None else self.average.network

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
            done=self.warmed + self.step,
            total=self.warm_up_steps + self.total_steps,
            images_per_step=self.config.batch_size,
            shown=self.processes.first,
        )
        # Layers such as dropout draw from the global generator: each step seeds it, and it is left as it was found.
        with self._generator_kept(), progress, self.stopwatch.running():
            while self.warmed < self.warm_up_steps:
                self._run_warm_up_epoch(log, progress)
            while self.step < self.total_steps:
                self._run_epoch(log, progress)
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

    def _run_warm_up_epoch(self, log: MetricsLog | None, progress: Progress) -> None:
        """The warm-up's steps from here to the end of the epoch or of the warm-up."""
        epoch, done = divmod(self.warmed, self.batches.steps_per_epoch)
        plan = self.batches.plan(seed=derive_seed(self.seed, "warm-up"), epoch=epoch)
        for index in range(done, min(self.batches.steps_per_epoch, done + self.warm_up_steps - self.warmed)):
            self._warm_up_step(plan, index)
            progress.step()
            finished = self.warmed == self.warm_up_steps
            epoch_ended = finished or index + 1 == self.batches.steps_per_epoch
            if finished or self.warmed % self.config.log_steps == 0:
                progress.loss(self._log_terms(log, "warm-up"))
            self._save_if_due(log, self.warmed, epoch + 1 if epoch_ended else None, finished)

    def _run_epoch(self, log: MetricsLog | None, progress: Progress) -> None:
        """The steps from here to the end of the epoch or of training, with what is due after each."""
        config = self.config
        epoch, done = divmod(self.step, self.batches.steps_per_epoch)
        plan = self.batches.plan(seed=self.seed, epoch=epoch)
        if not done:
            torch.manual_seed(derive_seed(self.seed, "start of epoch", epoch))
            self.method.start_epoch(self.model)
        for index in range(done, min(self.batches.steps_per_epoch, done + self.total_steps - self.step)):
            self._train_step(plan, epoch, index)
            progress.step()
            finished = self.step == self.total_steps
            epoch_ended = finished or index + 1 == self.batches.steps_per_epoch
            if finished or self.step % config.log_steps == 0:
                progress.loss(self._log_terms(log, "train"))
            if finished or (epoch_ended and (epoch + 1) % config.eval_epochs == 0):
                with self.stopwatch.paused():
                    accuracy = clean_accuracy(self.evaluated, self.test, config)
                    if log is not None:
                        log.write("test", self.step, {"accuracy": accuracy})
            self._save_if_due(log, self.step, epoch + 1 if epoch_ended else None, finished)

    def _train_step(self, plan: EpochPlan | None, epoch: int, index: int) -> None:
        """One batch of the epoch. Reads nothing back from the device."""
        method, progress = self.method, self.step / self.total_steps
        seed = self._seed_step("step", self.step)
        self.model.train()
        pieces = self.batches.pieces(plan, index, progress=progress, seed=seed)
        self.descent.schedule(lambda rate: self._scheduled(rate, epoch))
        self.terms.add(self.descent.step(pieces, lambda batch: method(self.student, self.teacher, batch)))
        if self.average is not None:
            self.average.update()
        if isinstance(method, AdversarialMethod) and (self.step + 1) % method.adversary_every == 0:
            self._adversary_step(method, pieces, epoch)
        self.step += 1
        self.images_seen += self.batches.size(index)

    def _adversary_step(self, method: AdversarialMethod, pieces: list[Piece], epoch: int) -> None:
        """The adversary's step against the student, on the very batch of its step: what was computed may be reused."""
        assert self.adversary is not None
        self._seed_step("adversary", self.step)
        self.adversary.schedule(lambda rate: self._scheduled(rate, epoch))
        terms = self.adversary.step(pieces, lambda batch: method.adversary_terms(self.student, self.teacher, batch))
        self.adversary_terms.add({f"adversary_{name}": term for name, term in terms.items()})

    def _warm_up_step(self, plan: EpochPlan | None, index: int) -> None:
        """One batch of the warm-up, at a constant rate."""
        assert self.warm_up is not None
        seed = self._seed_step("warm-up step", self.warmed)
        pieces = self.batches.pieces(plan, index, progress=self.warmed / self.warm_up_steps, seed=seed)
        self.terms.add(self.warm_up.step(pieces, lambda batch: self.method.warm_up_terms(self.teacher, batch)))
        self.warmed += 1

    def _build(self, images: int) -> None:
        """What the method makes of the networks, from a seed of its own."""
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

    def _descent(self, parameters: list[nn.Parameter], *, lr: float | None = None) -> Descent:
        """Plain SGD as configured; `lr` instead of the configured one."""
        config = self.config
        return self._descent_of(
            torch.optim.SGD(
                parameters,
                lr=config.lr if lr is None else lr,
                momentum=config.momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
                # The only SGD that a GradScaler steps without reading back whether a gradient overflowed.
                fused=True if config.precision == "float16" else None,
            )
        )

    def _descent_of(self, optimizer: torch.optim.Optimizer) -> Descent:
        modules = [*self.model.modules(), *self.method.modules()]
        norms = [module for module in modules if isinstance(module, _BatchNorm) and module.training]
        statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
        return Descent(
            optimizer,
            processes=self.processes,
            statistics=statistics,
            scaler=torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "float16"),
            clip_norm=self.config.clip_norm,
        )

    def _steps(self, epochs: int) -> int:
        steps = epochs * self.batches.steps_per_epoch
        return steps if self.config.max_steps is None else min(steps, self.config.max_steps)

    def _scheduled(self, rate: float, epoch: int) -> float:
        config = self.config
        if config.schedule == "cosine":
            return cosine_lr(self.step / self.total_steps, lr=rate)
        return step_lr(epoch, lr=rate, milestones=config.milestones, decay=config.lr_decay)

    def _seed_step(self, *labels: str | int) -> int:
        """Seed the global generator, differently in each process; the seed of the method's own noise, one for all."""
        seed = derive_seed(self.seed, *labels)
        torch.manual_seed(seed if self.processes.first else derive_seed(seed, self.processes.rank))
        return seed

    @contextmanager
    def _generator_kept(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield

    def _log_terms(self, log: MetricsLog | None, kind: str) -> float:
        """Write the means since the last writing; the mean loss."""
        means = {**self.terms.read(), **self.adversary_terms.read()}
        if not math.isfinite(means["loss"]):
            raise DivergenceError(
                f"{self.label}: the mean loss up to step {self.step} is {means['loss']}; try a lower lr"
            )
        descent, step = (self.descent, self.step) if kind == "train" else (self.warm_up, self.warmed)
        assert descent is not None
        if log is not None:
            log.write(kind, step, {**means, "lr": descent.rate})
        return means["loss"]

    def _save_if_due(self, log: MetricsLog | None, step: int, ended_epoch: int | None, finished: bool) -> None:
        config = self.config
        by_epoch = ended_epoch is not None and ended_epoch % config.checkpoint_epochs == 0
        by_step = config.checkpoint_steps is not None and step % config.checkpoint_steps == 0
        if finished or by_epoch or by_step:
            with self.stopwatch.paused():
                self._save(log)

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
            "step": self.step,
            "warmed": self.warmed,
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "descents": {name: descent.state_dict() for name, descent in self._descents().items()},
            "average": None if self.average is None else self.average.network.state_dict(),
            "terms": self.terms.state_dict(),
            "adversary_terms": self.adversary_terms.state_dict(),
            "metrics_position": log.sync(),
            "images_seen": self.images_seen,
            "seconds": self.stopwatch.seconds,
        }
        self.checkpoints.save(self.warmed + self.step, content)

    def _restore(self) -> int:
        """Continue from the newest whole checkpoint, if there is one; the position of the metrics there."""
        content = self.checkpoints.load_newest(device=self.device, warn=print)
        if content is None:
            return 0
        self.model.load_state_dict(content["model"])
        self.method.load_state_dict(content["method"])
        for name, descent in self._descents().items():
            descent.load_state_dict(content["descents"][name])
        if self.average is not None:
            self.average.network.load_state_dict(content["average"])
        self.terms.load_state_dict(content["terms"])
        self.adversary_terms.load_state_dict(content["adversary_terms"])
        self.step, self.warmed, self.images_seen = content["step"], content["warmed"], content["images_seen"]
        self.stopwatch = Stopwatch(self.device, content["seconds"])
        print(f"{self.label}: continuing after step {self.step} of {self.total_steps}", flush=True)
        return content["metrics_position"]

    def _descents(self) -> dict[str, Descent]:
        named = {"student": self.descent, "warm_up": self.warm_up, "adversary": self.adversary}
        return {name: descent for name, descent in named.items() if descent is not None}

    def _tensors(self) -> dict[str, Tensor]:
        """What every process must agree on."""
        states: dict[str, Any] = {"model": self.model.state_dict(), "method": self.method.state_dict()}
        return {f"{part}.{name}": tensor for part, state in states.items() for name, tensor in state.items()}
