"""Other libraries on the same inputs; each raises Missing with the reason where it cannot be had.

An attack is ``(network, images, classes) -> adversarial images``, with the same radius, step size and number of steps
as ours and, where the library allows it, no random start.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.suite.case import Call, Missing

_LARGEST_MATRIX = 2**30  # bytes; what is larger would not fit into the memory of most machines, several times over


def torchattacks(attack: str, **options: Any) -> Callable[[nn.Module, Tensor, Tensor], Call]:
    """torchattacks' class of that name."""

    def build(network: nn.Module, x: Tensor, y: Tensor) -> Call:
        attacker = getattr(_module("torchattacks"), attack)(network, **options)
        return lambda: attacker(x, y)

    return build


def foolbox(attack: str, eps: float, **options: Any) -> Callable[[nn.Module, Tensor, Tensor], Call]:
    """foolbox' attack of that name."""

    def build(network: nn.Module, x: Tensor, y: Tensor) -> Call:
        library = _module("foolbox")
        model = library.PyTorchModel(network, bounds=(0, 1), device=x.device)
        attacker = getattr(library.attacks, attack)(random_start=False, **options)
        return lambda: attacker.run(model, x, y, epsilon=eps)

    return build


def adv_lib_pgd(eps: float, step_size: float, steps: int) -> Callable[[nn.Module, Tensor, Tensor], Call]:
    """adv-lib's linf PGD, which returns the last image that is misclassified, not the last image."""

    def build(network: nn.Module, x: Tensor, y: Tensor) -> Call:
        attack = _file("adv_lib", "attacks/projected_gradient_descent.py").pgd_linf
        return lambda: attack(
            network,
            x,
            y,
            torch.full_like(y, eps, dtype=x.dtype),
            steps=steps,
            random_init=False,
            absolute_step_size=step_size,
        )

    return build


def adv_lib_apgd(eps: float, steps: int) -> Callable[[nn.Module, Tensor, Tensor], Call]:
    """adv-lib's APGD, which returns the last misclassified image; its other mode cannot be given the steps."""

    def build(network: nn.Module, x: Tensor, y: Tensor) -> Call:
        attack = _file("adv_lib", "attacks/auto_pgd.py").apgd
        return lambda: attack(network, x, y, eps, math.inf, n_iter=steps, loss_function="ce")

    return build


def metric_learning_triplets(triplets: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """pytorch-metric-learning's triplet loss of given triplets; it computes the distances of all rows to all."""
    matrix = 4 * (3 * triplets) ** 2
    if matrix > _LARGEST_MATRIX:
        raise Missing(f"pytorch-metric-learning: each of its matrices of distances would take {matrix / 2**30:.0f} GiB")
    library = _module("pytorch_metric_learning.losses")
    distances, reducers = (_module(f"pytorch_metric_learning.{name}") for name in ("distances", "reducers"))
    loss = library.TripletMarginLoss(
        margin=1.0, distance=distances.LpDistance(normalize_embeddings=False), reducer=reducers.MeanReducer()
    )
    rows = torch.arange(triplets)
    indices = (rows, rows + triplets, rows + 2 * triplets)
    return lambda *triplet: loss(torch.cat(triplet), indices_tuple=indices)


def liger(kind: str, device: torch.device) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Liger's "kl" or "js" behind PyTorch's softmaxes: (student, teacher, T) -> T^2 times the batch's mean."""
    if device.type != "cuda":
        raise Missing("Liger's kernels are for GPUs")
    library = _module("liger_kernel.transformers")
    divergence = library.LigerKLDIVLoss(reduction="batchmean") if kind == "kl" else library.LigerJSD(beta=0.5)

    def loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        log_q = F.log_softmax(student / temperature, dim=1)
        p = F.softmax(teacher / temperature, dim=1) if kind == "kl" else F.log_softmax(teacher / temperature, dim=1)
        return divergence(log_q, p) * temperature**2

    return loss


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{name.partition('.')[0]}: {error}") from error


def _file(package: str, path: str) -> ModuleType:
    """One file of ``package``, without the neighbours that its folder's __init__ would import and that need more."""
    _module(package)
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations
    file = Path(found.submodule_search_locations[0]) / path
    spec = importlib.util.spec_from_file_location(f"benchmarks_{package}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _without_plots():
            spec.loader.exec_module(module)
    except (ImportError, FileNotFoundError) as error:
        raise Missing(f"{package}: {error}") from error
    return module


@contextlib.contextmanager
def _without_plots() -> Iterator[None]:
    """An empty visdom where there is none: adv-lib plots with it, and its attacks only name the plotter's class."""
    absent = "visdom" not in sys.modules and importlib.util.find_spec("visdom") is None
    if absent:
        sys.modules["visdom"] = ModuleType("visdom")
    try:
        yield
    finally:
        if absent:
            del sys.modules["visdom"]
