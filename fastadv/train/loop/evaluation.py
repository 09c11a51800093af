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
    """Return {"clean": accuracy on the first config.eval_samples images of `split`, "pgd": that of an attack on them}.

    Of these the attack sees the first config.pgd_samples.
    """
    clean = clean_accuracy(model, split, config)
    attacked = split[: config.eval_samples][: config.pgd_samples]
    return {"clean": clean, "pgd": _accuracy(model, attacked, config, attack=True)}


def clean_accuracy(model: nn.Module, split: Split, config: Config) -> float:
    """Return the share of the first config.eval_samples images of `split` that is classified correctly, in [0, 1]."""
    return _accuracy(model, split[: config.eval_samples], config, attack=False)


def _accuracy(model: nn.Module, split: Split, config: Config, *, attack: bool) -> float:
    """Return the share of `split` that is correct, or so after linf PGD on the cross-entropy with one random start."""
    training, size = model.training, config.eval_batch_size
    processes = Processes()
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    # Each process takes every so-manieth batch: the batches, and so the attack's noise, are those of one process.
    for start in range(processes.rank * size, len(split), processes.count * size):
        labels = split.labels[start : start + size]
        x = to_pixels(split.images[start : start + size], channels_last=config.channels_last)
        if attack:
            seed = derive_seed(ATTACK_SEED, "pgd", start)
            x = pgd(model, x, labels, eps=config.eval_eps, steps=config.eval_steps, seed=seed)
        with torch.no_grad():
            correct += (model(x).argmax(dim=1) == labels).sum()
    model.train(training)
    processes.all_reduce([correct])
    return correct.item() / len(split)
