"""Train a small network adversarially for a few epochs, for evaluations of attacks that need one.

python -m benchmarks.studies.adversarial_training --out DIR: one random-start FGSM step of 1.25 eps an image
(Wong, Rice, Kolter, "Fast is better than free", ICLR 2020), the cross-entropy of what it finds, SGD with a cosine
schedule. Leaves weights.pt in the folder for `fastadv attack --checkpoint`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch.nn.functional import cross_entropy

from fastadv.attacks import FGSM
from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.train.config.train_config import Config
from fastadv.train.data import datasets
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime.machine import cpu_threads

SEED = 0


class FastAdversarialTraining(Method):
    """CE(S(x'), y), x' one FGSM step from a random start in the linf ball of `eps`."""

    needs_teacher = False

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.attack = FGSM(eps=eps, step_size=1.25 * eps, random_start=True)

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        moved = self.attack(student, batch.x, batch.y, seed=batch.seed)
        return {"loss": cross_entropy(student(moved), batch.y)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.adversarial_training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of weights, metrics and checkpoints")
    parser.add_argument("--data", default="digits", help="digits or cifar100 (default: digits)")
    parser.add_argument("--data-dir", type=Path, help="of cifar100")
    parser.add_argument("--model", default="digits_cnn", help="a network of `fastadv train` (default: digits_cnn)")
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--eps", type=float, default=0.1, help="linf radius in pixels of [0, 1] (default: 0.1)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args()
    config = Config(
        data=options.data,
        data_dir=options.data_dir,
        augmentation="shift1" if options.data == "digits" else "crop4_flip",
        student=options.model,
        epochs=options.epochs,
        eval_eps=options.eps,
        tensorboard=False,
        channels_last=True,
    )
    dataset = datasets.load(config.data, data_dir=config.data_dir)
    with cpu_threads(options.threads):
        result = Trainer(
            model=build_classifier(config.student, config, dataset, seed=SEED),
            method=FastAdversarialTraining(options.eps),
            teacher=None,
            train=dataset.train,
            test=dataset.test,
            config=config,
            seed=SEED,
            folder=options.out,
            label=f"adversarial training of {options.model}",
        ).fit()
    print(f"clean {result['clean']:.2%}, under PGD {result['pgd']:.2%}, {result['seconds']:.0f} s of training")


if __name__ == "__main__":
    main()
