"""Tiny sizes, on which the whole call runs on a CPU: a set in CIFAR-100's own layout, networks, steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastadv.train.data import cifar
from fastadv.train.networks import catalogue
from gpu_reproduce.pack import SHAPE, write_pickles

ROWS = {"train": 200, "test": 100}
NETWORK = "resnet8"
TEACHER = "teacher.pth"


def write(folder: Path) -> None:
    """Write the set, whose images are noise, and an untrained teacher: the same ones each time."""
    kind, random = cifar.CIFAR100, np.random.default_rng(0)
    splits = {
        split: (
            random.integers(0, 256, (count, *SHAPE), dtype=np.uint8),
            [label % kind.classes for label in range(count)],
        )
        for split, count in ROWS.items()
    }
    write_pickles(folder, splits, [f"name {label}" for label in range(kind.classes)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = catalogue.build(NETWORK, num_classes=kind.classes, image_shape=(3, 32, 32))
    torch.save(network.state_dict(), folder / TEACHER)


def read(data_dir: Path) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the set's two splits, read as all of CIFAR-100 is."""
    splits = cifar.read(cifar.CIFAR100, data_dir, ROWS).splits
    return tuple((torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in splits.values())


def flags(folder: Path) -> list[str]:
    """Return the flags of `fastadv train` that make every training tiny, given the folder that was written."""
    few = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 8, "eval_samples": 100, "pgd_samples": 8, "log_steps": 2}
    return [
        *("--data", f"{__name__}:read", "--data-dir", str(folder)),
        *("--teacher", NETWORK, "--student", NETWORK, "--device", "cpu", "--threads", "1"),
        *(word for name, count in few.items() for word in ("--" + name.replace("_", "-"), str(count))),
    ]
