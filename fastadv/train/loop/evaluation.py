"""Accuracy on a split, clean and under PGD."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastadv.attacks import pgd
from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.config.train_config import Config
from fastadv.train.data.splits import Split, to_pixels
from fastadv.train.runtime.processes import Processes

# One set of random starts for every network, so that all face the same attack.
ATTACK_SEED = 0


def evaluate(model: nn.Module, split: Split, config: Config) -> dict[str, float]:
    """Return {"clean": accuracy on the first config.eval_samples images of `split`, "pgd": that of an attack on them}.

    Of these the attack sees the first config.pgd_samples.
    """
    clean = clean_accuracy(model, split, config)
    return {"clean": clean, "pgd": pgd_accuracy(model, split[: config.eval_samples][: config.pgd_samples], config)}


def clean_accuracy(model: nn.Module, split: Split, config: Config) -> float:
    """Return the share of the first config.eval_samples images of `split` that is classified correctly, in [0, 1]."""
    return _accuracy(model, split[: config.eval_samples], config, lambda x, y, start: x)


def pgd_accuracy(model: nn.Module, split: Split, config: Config) -> float:
    """Return the share of `split`, in [0, 1], that is correct after linf PGD on the cross-entropy, one random start."""

    def attack(x: Tensor, y: Tensor, start: int) -> Tensor:
        seed = derive_seed(ATTACK_SEED, "pgd", start)
        return pgd(model, x, y, eps=config.eval_eps, steps=config.eval_steps, seed=seed)

    return _accuracy(model, split, config, attack)


def _accuracy(
    model: nn.Module, split: Split, config: Config, perturb: Callable[[Tensor, Tensor, int], Tensor]
) -> float:
    training, size = model.training, config.eval_batch_size
    processes = Processes()
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    # Each process takes every so-manieth batch: the batches, and so the attack's noise, are those of one process.
    for start in range(processes.rank * size, len(split), processes.count * size):
        labels = split.labels[start : start + size]
        x = to_pixels(split.images[start : start + size], channels_last=config.channels_last)
        x = perturb(x, labels, start)
        with torch.no_grad():
            correct += (model(x).argmax(dim=1) == labels).sum()
    model.train(training)
    processes.all_reduce([correct])
    return correct.item() / len(split)
