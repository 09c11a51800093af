"""Cases of whole attacks on a small convolutional network and, where its weights are given, on a public resnet56."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastadv
from benchmarks.cases.inputs import CIFAR, EPS, STEP, generator, size, uniform
from benchmarks.opponents import loops, peers
from benchmarks.suite.case import Call, Case, Entry, Missing
from fastadv import attacks
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.networks.weights import load_weights

STEPS, PARTICLES, L2, L2_STEP = 10, 4, 0.5, 0.125
Victim = Callable[[torch.device], nn.Module]
LOOPS = ("fgsm", "pgd linf", "pgd l2", "mi_fgsm", "apgd", "svgd", "bss", "vat")


def entries(resnet56: Path | None) -> Iterator[Entry]:
    for attack in LOOPS:
        yield _entry(attack, "a small network", small_network, 32, chosen=True)
        yield _entry(attack, "a small network", small_network, 256)
        if resnet56 is not None:
            yield _entry(attack, "resnet56", partial(public_resnet56, resnet56), 32)


def small_network(device: torch.device) -> nn.Module:
    """Four layers, about 24,000 parameters: small enough that what surrounds the network can be seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 10),
        )
    return network.to(device).eval().requires_grad_(False)


def public_resnet56(weights: Path, device: torch.device) -> nn.Module:
    """The CIFAR-100 network of chenyaofo/pytorch-cifar-models, behind its normalisation."""
    network = catalogue.build("resnet56", num_classes=100, image_shape=CIFAR)
    load_weights(network, weights)
    model = Classifier(network, (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)).to(device)
    return model.eval().requires_grad_(False)


def _entry(attack: str, on: str, victim: Victim, batch: int, *, chosen: bool = False) -> Entry:
    steps = "1 step" if attack in ("fgsm", "vat") else f"{STEPS} steps"
    name = f"attack {attack}, {steps} on {on}, {size((batch, *CIFAR))}"
    # Compiling the unrolled steps takes longer than measuring them.
    build = partial(_case, attack, victim, batch)
    return Entry(name, f"attacks.{attack.split()[0]}", build, chosen, compiled=False)


def _case(attack: str, victim: Victim, batch: int, device: torch.device) -> Case:
    network = victim(device)
    x = F.avg_pool2d(uniform(generator(device), batch, 3, 34, 34), 3, stride=1)
    with torch.no_grad():
        # Its own predictions, so that every image is still to be attacked.
        y = network(x).argmax(1)
    fused, eager, arguments, opponents = _CALLS[attack](network, x, y)
    return Case(
        fused=fused,
        eager=eager,
        arguments=(network, *arguments),
        work=None,
        # Of svgd and vat both sides draw starts of their own.
        atol=0.1 if attack in ("svgd", "vat") else 0.01,
        opponents_atol=0.1,
        opponents={
            name: partial(_fair, network, fused, partial(build, network, x, y)) for name, build in opponents.items()
        },
        difference=partial(_reached, network, x, y, attack),
        agreement="inside ball and box, and the mean loss reached",
    )


def _fair(network: nn.Module, fused: Call, build: Callable[[], Call]) -> Call:
    """The opponent's call. Raises Missing where it shows the network many more images than ours."""
    call = build()
    shown, ours = _images_shown(network, call), _images_shown(network, fused)
    if shown > 1.25 * ours:
        raise Missing(f"shows the network {shown} images, ours {ours}")
    return call


def _images_shown(network: nn.Module, call: Call) -> int:
    shown = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal shown
        shown += inputs[0].shape[0]

    hook = network.register_forward_pre_hook(count)
    try:
        call()
    finally:
        hook.remove()
    return shown


def _reached(network: nn.Module, x: Tensor, y: Tensor, attack: str, result: object, expected: object) -> float:
    """Difference of the mean losses reached, relative to what was to be gained; infinite outside of the ball."""
    assert isinstance(result, Tensor)
    assert isinstance(expected, Tensor)
    # Images [N, C, H, W] or particles [N, n, C, H, W].
    found, wanted = (images.detach().reshape(x.shape[0], -1, *x.shape[1:]) for images in (result, expected))
    if _outside(found, x, attack):
        return float("inf")
    clean, gained, gain = (_loss(network, images, x, y, attack) for images in (x.unsqueeze(1), found, wanted))
    return abs(gained - gain) / max(abs(gain - clean), 1e-12)


def _outside(found: Tensor, x: Tensor, attack: str) -> bool:
    """True where one of the images [N, n, C, H, W] has left ball or box; bss has no ball, vat no box."""
    away = (found - x.unsqueeze(1)).flatten(2)
    beyond = away.norm(dim=2).amax() - L2 if attack in ("pgd l2", "vat") else away.abs().amax() - EPS
    out_of_box = bool((found < 0).any() | (found > 1).any())
    return (attack != "bss" and float(beyond) > 1e-4) or (attack != "vat" and out_of_box)


def _loss(network: nn.Module, images: Tensor, x: Tensor, y: Tensor, attack: str) -> float:
    """The mean over images [N, n, C, H, W] of what the attack climbs."""
    with torch.no_grad():
        logits = network(images.flatten(0, 1))
        if attack == "vat":
            return float(fastadv.kl_distill(logits, network(x)))
        return float(F.cross_entropy(logits, y.repeat_interleave(images.shape[1])))


Calls = tuple[Call, Callable[..., object], tuple[object, ...], dict[str, Any]]


def _fgsm(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    attack = attacks.FGSM(eps=EPS)
    opponents = {
        "torchattacks": peers.torchattacks("FGSM", eps=EPS),
        "foolbox": peers.foolbox("LinfFastGradientAttack", EPS),
    }
    return lambda: attack(network, x, y), loops.fgsm, (x, y, EPS), opponents


def _pgd_linf(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    attack = attacks.PGD(eps=EPS, step_size=STEP, steps=STEPS, random_start=False)
    opponents = {
        "torchattacks": peers.torchattacks("PGD", eps=EPS, alpha=STEP, steps=STEPS, random_start=False),
        "foolbox": peers.foolbox("LinfPGD", EPS, abs_stepsize=STEP, steps=STEPS),
        "adv-lib": peers.adv_lib_pgd(EPS, STEP, STEPS),
    }
    return lambda: attack(network, x, y), loops.pgd_linf, (x, y, EPS, STEP, STEPS), opponents


def _pgd_l2(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    attack = attacks.PGD(eps=L2, step_size=L2_STEP, steps=STEPS, norm="l2", random_start=False, mode="sequential")
    opponents = {
        "torchattacks": peers.torchattacks("PGDL2", eps=L2, alpha=L2_STEP, steps=STEPS, random_start=False),
        "foolbox": peers.foolbox("L2PGD", L2, abs_stepsize=L2_STEP, steps=STEPS),
    }
    return lambda: attack(network, x, y), loops.pgd_l2, (x, y, L2, L2_STEP, STEPS), opponents


def _mi_fgsm(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    attack = attacks.MIFGSM(eps=EPS, step_size=STEP, steps=STEPS)
    opponents = {"torchattacks": peers.torchattacks("MIFGSM", eps=EPS, alpha=STEP, steps=STEPS)}
    return lambda: attack(network, x, y), loops.mi_fgsm, (x, y, EPS, STEP, STEPS), opponents


def _apgd(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    attack = attacks.APGD(eps=EPS, steps=STEPS, random_start=False)
    opponents = {
        "torchattacks": peers.torchattacks("APGD", eps=EPS, steps=STEPS),
        "adv-lib": peers.adv_lib_apgd(EPS, STEPS),
    }
    return lambda: attack(network, x, y), loops.apgd, (x, y, EPS, STEPS), opponents


def _svgd(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    attack = attacks.SVGD(eps=EPS, step_size=STEP, steps=STEPS, particles=PARTICLES, score_scale=1.0, seed=0)
    return lambda: attack(network, x, y), loops.svgd, (x, y, EPS, STEP, STEPS, PARTICLES), {}


def _bss(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    with torch.no_grad():
        target = network(x).topk(2, dim=1).indices[:, 1]
    attack = attacks.BSS(steps=STEPS)
    return lambda: attack(network, x, target), loops.bss, (x, target, STEPS), {}


def _vat(network: nn.Module, x: Tensor, y: Tensor) -> Calls:
    # A finite difference that float32 resolves, in the published form too.
    attack = attacks.VAT(eps=L2, xi=1.0, seed=0)
    return lambda: attack(network, x), loops.vat, (x, L2, 1.0), {}


_CALLS: dict[str, Callable[[nn.Module, Tensor, Tensor], Calls]] = {
    "fgsm": _fgsm,
    "pgd linf": _pgd_linf,
    "pgd l2": _pgd_l2,
    "mi_fgsm": _mi_fgsm,
    "apgd": _apgd,
    "svgd": _svgd,
    "bss": _bss,
    "vat": _vat,
}
