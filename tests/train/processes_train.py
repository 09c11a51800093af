"""Trains each of JOBS and leaves weights, metrics and messages in a folder; then a whole run. Alone or under torchrun.

usage: [torchrun ...] processes_train.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from fastadv.attacks.methods import autoattack as ensemble
from fastadv.distill import KD, TALD, AdversarialMethod, CrossEntropy
from fastadv.train import cli
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import subset
from fastadv.train.loop.evaluation import evaluate
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.networks.classifier import Classifier
from fastadv.train.runtime.errors import ConfigError, TrainError
from fastadv.train.runtime.processes import Processes, joined

FLAGS = {"epochs": "2", "batch_size": "51", "tensorboard": False, "log_steps": "1", "eval_batch_size": "90"}
FLAGS.update(augmentation="none", eval_steps="2", eval_samples="200", eval_eps="0.1")

# Of AutoAttack: how many images it sees, at what radius, and how short it is.
ATTACKED, EPS, STEPS, QUERIES = 60, 0.02, 5, 10


class FromNoise(AdversarialMethod):
    """A generator with BatchNorm against the student, without images; both draw noise by seed."""

    needs_teacher = False
    needs_images = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.adversary = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8)))

    def _images(self, batch):
        return self.adversary(torch.randn(len(batch.x), 4, generator=torch.Generator().manual_seed(batch.seed)))

    def forward(self, student, teacher, batch):
        return {"loss": student(self._images(batch).detach()).square().mean()}

    def adversary_optimizer(self):
        return torch.optim.Adam(self.adversary.parameters(), lr=1e-3)

    def adversary_terms(self, student, teacher, batch):
        return {"loss": -student(self._images(batch)).square().mean()}


class Remembers(CrossEntropy):
    """Keeps something of the images that this process saw."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(()))

    def forward(self, student, teacher, batch):
        self.memory += batch.x.mean()
        return super().forward(student, teacher, batch)


def without_batch_statistics(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return Classifier(network, [0.3], [0.4])


# How to make the method, and whether the student has batch statistics.
JOBS = {
    "ce": (CrossEntropy, False),
    "kd": (KD, False),
    "tald": (lambda: TALD(steps=2, eps=0.1, weight=0.5), False),
    "norm": (CrossEntropy, True),
    "noise": (FromNoise, True),
}


def trainer(digits, folder, method, *, norm, **flags):
    config = resolve(flags={**FLAGS, **flags})
    return Trainer(
        model=build_classifier(config.student, config, digits, seed=0) if norm else without_batch_statistics(0),
        method=method,
        teacher=without_batch_statistics(1).eval().requires_grad_(False),
        train=subset(digits.train, 150, seed=0),
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )


def message_of(function):
    try:
        function()
    except TrainError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def fail():
    raise ConfigError("in the first process")


def train_jobs(folder: Path) -> None:
    digits = datasets.load("digits")
    for name, (method, norm) in JOBS.items():
        trained = trainer(digits, folder / name, method(), norm=norm)
        trained.fit()
    processes = Processes()
    facts = {
        "accuracy": evaluate(trained.model, digits.test, trained.config),
        "remembers": message_of(trainer(digits, folder / "remembers", Remembers(), norm=True).fit),
        "raised": message_of(lambda: processes.broadcast_from_rank0(fail)),
        "told": processes.broadcast_from_rank0(lambda: Processes().rank),
    }
    (folder / f"facts-{processes.rank}.json").write_text(json.dumps(facts))
    print(f"rank {processes.rank} of {processes.count} speaks")


def train_whole_run(folder: Path) -> int:
    options = ["--methods=kd", "--seeds=0", "--teacher-epochs=1", "--student-samples=100", "--epochs=1"]
    options += ["--eval-steps=1", "--eval-attack=autoattack", f"--eval-samples={ATTACKED}", f"--eval-eps={EPS}"]
    return cli.main(["train", "--run-dir", str(folder), "--no-tensorboard", *options])


def attack(folder: Path, weights: Path) -> int:
    options = ["--model=digits_small", f"--checkpoint={weights}", "--attack=autoattack", f"--eps={EPS}"]
    return cli.main(["attack", "--out", str(folder), f"--n={ATTACKED}", "--batch-size=8", *options])


if __name__ == "__main__":
    given = Path(sys.argv[1])
    with joined("cpu"):
        train_jobs(given)
        ensemble._STEPS, ensemble._QUERIES = STEPS, QUERIES
        status = train_whole_run(given / "run") or attack(given / "attack", given / "run" / "kd-seed0" / "weights.pt")
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    (given / f"threads-{os.environ['RANK']}.json").write_text(json.dumps(threads))
    raise SystemExit(status)
