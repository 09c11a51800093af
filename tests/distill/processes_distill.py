"""Steps of a student under DistributedDataParallel, alone or under torchrun; what came of them in a file.

usage: [torchrun ...] processes_distill.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fastadv import distill
from fastadv.distill import Distiller, Hooked

STEPS, IMAGES = 3, 8

# One of each kind: logits, feature maps, attacks, and a rival network; none sees how the batch is cut.
METHODS = {
    "kd": distill.KD,
    "at": distill.AT,
    "pgd-at": lambda: distill.PGDAT(steps=2, eps=0.1, step_size=0.05),
    "igdm": lambda: distill.IGDM(distill.RSLAD(steps=2, eps=0.1, step_size=0.05)),
    "tald": lambda: distill.TALD(steps=2, eps=0.1, weight=0.5),
    "ai-kd": lambda: distill.AIKD(beta=0.0),
}


def network(seed: int) -> Hooked:
    """Without batch statistics, which are those of each process's part."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)]
    return Hooked(nn.Sequential(*layers), ["1", "3"])


def train(
    name: str,
    rank: int,
    count: int,
    *,
    by_hand: bool = False,
    group: distributed.ProcessGroup | None = None,
    data: int = 0,
) -> dict[str, Tensor]:
    student = network(0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    together = count > 1 or group is not None
    wrapped = DistributedDataParallel(student, process_group=group) if together else student
    teacher = network(1).eval()
    distiller = Distiller(METHODS[name](), wrapped, teacher, optimizer, epochs=1, steps_per_epoch=STEPS, images=IMAGES)
    losses = []
    for step in range(STEPS):
        random = torch.Generator().manual_seed(STEPS * data + step)
        x = torch.rand(IMAGES, 1, 8, 8, generator=random)
        y = torch.randint(0, 5, (IMAGES,), generator=random)
        x, y, index = (each.chunk(count)[rank] for each in (x, y, torch.arange(IMAGES)))
        if not by_hand:
            losses.append(distiller.step(x, y, index=index))
            continue
        optimizer.zero_grad()
        loss = distiller.terms(x, y, index=index)["loss"]
        loss.backward()
        optimizer.step()
        distiller.stepped()
        losses.append(loss.detach())
    trained = {**student.state_dict(), **{f"method.{key}": each for key, each in distiller.method.state_dict().items()}}
    return {"losses": torch.stack(losses), **{key: each for key, each in trained.items() if isinstance(each, Tensor)}}


def message_of(name: str) -> str:
    try:
        METHODS[name] = lambda: distill.CRD(negatives=2, width=4)
        train(name, 0, 2)
    except ValueError as error:
        return str(error)
    return "nothing was raised"


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank, count = distributed.get_rank(), distributed.get_world_size()
    found = {name: train(name, rank, count) for name in METHODS}
    found["by hand"] = train("kd", rank, count, by_hand=True)
    # Each process trains a student of its own, on other images, in a group of its own.
    groups = [distributed.new_group([each]) for each in range(count)]
    found["own group"] = train("kd", 0, 1, group=groups[rank], data=rank)
    found["crd"] = message_of("crd")  # type: ignore[assignment]
    torch.save(found, Path(sys.argv[1]) / f"{rank}.pt")
    distributed.destroy_process_group()
    os._exit(0)  # threads of gloo may outlive the group
