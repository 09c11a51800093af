"""Train a small CIFAR-100 network adversarially for a few epochs, for evaluations of attacks that need one.

python -m benchmarks.adversarial_training --data-dir DIR --out DIR: one random-start FGSM step of 1.25 eps an image
(Wong, Rice, Kolter, "Fast is better than free", ICLR 2020), the cross-entropy of what it finds, SGD with a cosine
schedule. Leaves weights.pt in the folder for `fastadv attack --checkpoint`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv.attacks import FGSM
from fastadv.distill.method import Method, Network
from fastadv.train import datasets
from fastadv.train.config import Config
from fastadv.train.experiment import build_classifier
from fastadv.train.machine import cpu_threads
from fastadv.train.trainer import Trainer

SEED = 0


class FastAdversarialTraining(Method):
    """CE(S(x'), y), x' one FGSM step from a random start in the linf ball of `eps`."""

    needs_teacher = False

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.attack = FGSM(eps=eps, step_size=1.25 * eps, random_start=True)

    def forward(
        self,
        student: Network,
        teacher: Network | None,
        x: Tensor,
        y: Tensor,
        *,
        progress: float,
        seed: int | Tensor,
    ) -> dict[str, Tensor]:
        return {"loss": cross_entropy(student(self.attack(student, x, y, seed=seed)), y)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adversarial_training", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds cifar-100-python or -binary")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights, metrics and checkpoints")
    parser.add_argument("--model", default="resnet8", help="a network of fastadv.train.models (default: resnet8)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: 3)")
    parser.add_argument("--eps", type=float, default=2.0, help="linf radius in units of 1/255 (default: 2)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args()
    config = Config(
        data="cifar100",
        data_dir=options.data_dir,
        augmentation="crop4_flip",
        student=options.model,
        epochs=options.epochs,
        batch_size=128,
        lr=0.1,
        eval_eps=options.eps / 255,
        eval_samples=1000,
        tensorboard=False,
        channels_last=True,
    )
    dataset = datasets.load("cifar100", data_dir=options.data_dir)
    with cpu_threads(options.threads):
        result = Trainer(
            model=build_classifier(config.student, config, dataset, seed=SEED),
            method=FastAdversarialTraining(options.eps / 255),
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
