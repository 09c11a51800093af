"""Accuracy on a split, clean and under PGD."""

import torch
from torch import nn

from fastadv.attacks import pgd
from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.config.train_config import Config
from fastadv.train.data.splits import Split, to_pixels
from fastadv.train.runtime.processes import Processes

# One set of random starts for every network, so that all face the same attack.
ATTACK_SEED = 0


def evaluate(model: nn.Module, split: Split, config: Config) -> dict[str, float]:
    """Return {"clean": the accuracy, "pgd": that under attack}, each in [0, 1]."""
    return {"clean": accuracy(model, split, config), "pgd": accuracy(model, split, config, attacked=True)}


def accuracy(model: nn.Module, split: Split, config: Config, *, attacked: bool = False) -> float:
    """Return the share of the first config.eval_samples images of `split` that is classified correctly, in [0, 1].

    attacked: of the first config.pgd_samples of these, after linf PGD on the cross-entropy with one random start.
    """
    split = split[: config.eval_samples][: config.pgd_samples if attacked else None]
    training, size = model.training, config.eval_batch_size
    processes = Processes()
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    # Each process takes every so-manieth batch: the batches, and so the attack's noise, are those of one process.
    for start in range(processes.rank * size, len(split), processes.count * size):
        labels = split.labels[start : start + size]
        x = to_pixels(split.images[start : start + size], channels_last=config.channels_last)
        if attacked:
            seed = derive_seed(ATTACK_SEED, "pgd", start)
            x = pgd(model, x, labels, eps=config.eval_eps, steps=config.eval_steps, seed=seed)
        with torch.no_grad():
            correct += (model(x).argmax(dim=1) == labels).sum()
    model.train(training)
    processes.all_reduce([correct])
    return correct.item() / len(split)
