"""Train one network with one method, so that a killed run ends with the same weights as one that was not."""

import json
import math
from pathlib import Path

import torch
from torch import nn

from fastadv.distill import Batch, Method
from fastadv.train.augment import EpochPlan
from fastadv.train.checkpoint import Checkpoints, write_atomically
from fastadv.train.config import Config
from fastadv.train.datasets import Split, to_pixels
from fastadv.train.errors import DivergenceError
from fastadv.train.evaluation import clean_accuracy, evaluate
from fastadv.train.metrics import MeanTerms, MetricsLog
from fastadv.train.models import Classifier
from fastadv.train.progress import Progress
from fastadv.train.schedule import cosine_lr, step_lr
from fastadv.train.seeding import derive_seed
from fastadv.train.stopwatch import Stopwatch


class Trainer:
    """SGD on `method` for config.epochs (at most config.max_steps), evaluated on `test`.

    All randomness derives from (seed, step) or (seed, epoch). `folder` receives metrics.jsonl, checkpoints/, and at the
    end weights.pt (a plain state_dict of model.network) and result.json. A folder that holds checkpoints is continued.
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
        self.train, self.test = train, test
        self.config, self.seed, self.folder, self.label = config, seed, folder, label
        self.device = train.images.device
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        if config.max_steps is not None:
            self.total_steps = min(self.total_steps, config.max_steps)
        self.optimizer = torch.optim.SGD(
            [*model.parameters(), *method.own_parameters()],
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.terms = MeanTerms()
        self.step = 0
        self.images_seen = 0
        self.stopwatch = Stopwatch(self.device)

    def fit(self) -> dict[str, float]:
        """Train what is left to train, evaluate, write and return the result.

        Result: "clean" and "pgd" (accuracy in [0, 1]), "images_per_second" and "seconds" of training alone, "steps".
        Raises DivergenceError when the loss is not finite, CheckpointError when every checkpoint is damaged.
        """
        position = self._restore()
        log = MetricsLog(self.folder, position=position, step=self.step, tensorboard=self.config.tensorboard)
        images_per_step = min(self.config.batch_size, len(self.train))
        progress = Progress(self.label, done=self.step, total=self.total_steps, images_per_step=images_per_step)
        # Layers such as dropout draw from the global generator: each step seeds it, and it is left as it was found.
        generators = torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])
        with generators, progress, self.stopwatch.running():
            while self.step < self.total_steps:
                self._run_epoch(log, progress)
        log.close()
        result = {
            **evaluate(self.model, self.test, self.config),
            "images_per_second": self.images_seen / self.stopwatch.seconds,
            "seconds": self.stopwatch.seconds,
            "steps": self.step,
        }
        write_atomically(self.folder / "weights.pt", lambda file: torch.save(self.model.network.state_dict(), file))
        write_atomically(self.folder / "result.json", lambda file: file.write(json.dumps(result).encode()))
        return result

    def _run_epoch(self, log: MetricsLog, progress: Progress) -> None:
        """The steps from here to the end of the epoch or of training, with what is due after each."""
        config = self.config
        epoch, done = divmod(self.step, self.steps_per_epoch)
        plan = EpochPlan.draw(
            len(self.train), augmentation=config.augmentation, seed=self.seed, epoch=epoch, device=self.device
        )
        for index in range(done, min(self.steps_per_epoch, done + self.total_steps - self.step)):
            self._train_step(plan, epoch, index)
            progress.step()
            finished = self.step == self.total_steps
            epoch_ended = finished or index + 1 == self.steps_per_epoch
            if finished or self.step % config.log_steps == 0:
                progress.loss(self._log_terms(log))
            if finished or (epoch_ended and (epoch + 1) % config.eval_epochs == 0):
                with self.stopwatch.paused():
                    log.write("test", self.step, {"accuracy": clean_accuracy(self.model, self.test, config)})
            if (
                finished
                or (epoch_ended and (epoch + 1) % config.checkpoint_epochs == 0)
                or (config.checkpoint_steps is not None and self.step % config.checkpoint_steps == 0)
            ):
                with self.stopwatch.paused():
                    self._save(log)

    def _train_step(self, plan: EpochPlan, epoch: int, index: int) -> None:
        """One batch of the epoch. Reads nothing back from the device."""
        size = self.config.batch_size
        images, labels = plan.batch(self.train.images, self.train.labels, index * size, size)
        x = to_pixels(images, channels_last=self.config.channels_last)
        seed = derive_seed(self.seed, "step", self.step)
        torch.manual_seed(seed)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(epoch)
        batch = Batch(x, labels, progress=self.step / self.total_steps, seed=seed)
        terms = self.method(self.model, self.teacher, batch)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        self.optimizer.step()
        self.terms.add(terms)
        self.step += 1
        self.images_seen += len(labels)

    def _lr(self, epoch: int) -> float:
        config = self.config
        if config.schedule == "cosine":
            return cosine_lr(self.step / self.total_steps, lr=config.lr)
        return step_lr(epoch, lr=config.lr, milestones=config.milestones, decay=config.lr_decay)

    def _log_terms(self, log: MetricsLog) -> float:
        """Write the means since the last writing; the mean loss."""
        means = self.terms.read()
        if not math.isfinite(means["loss"]):
            raise DivergenceError(
                f"{self.label}: the mean loss up to step {self.step} is {means['loss']}; try a lower lr"
            )
        log.write("train", self.step, {**means, "lr": self.optimizer.param_groups[0]["lr"]})
        return means["loss"]

    def _save(self, log: MetricsLog) -> None:
        content = {
            "step": self.step,
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "terms": self.terms.state_dict(),
            "metrics_position": log.sync(),
            "images_seen": self.images_seen,
            "seconds": self.stopwatch.seconds,
        }
        self.checkpoints.save(self.step, content)

    def _restore(self) -> int:
        """Continue from the newest whole checkpoint, if there is one; the position of the metrics there."""
        content = self.checkpoints.load_newest(device=self.device, warn=print)
        if content is None:
            return 0
        self.model.load_state_dict(content["model"])
        self.method.load_state_dict(content["method"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.terms.load_state_dict(content["terms"])
        self.step, self.images_seen = content["step"], content["images_seen"]
        self.stopwatch = Stopwatch(self.device, content["seconds"])
        print(f"{self.label}: continuing after step {self.step} of {self.total_steps}", flush=True)
        return content["metrics_position"]
