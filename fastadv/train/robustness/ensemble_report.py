"""The report of AutoAttack on a test split: tables, JSON, a picture, and the images themselves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.report.plots import draw_broken
from fastadv.train.report.tables import render_table
from fastadv.train.robustness.attack_report import (
    class_table,
    count_classes,
    describe_images,
    interval_cells,
    setup,
    share,
    write_files,
)
from fastadv.train.robustness.attack_split import JUDGE, PreparedAttack, distances
from fastadv.train.robustness.ensemble import Evaluated, run_autoattack
from fastadv.train.runtime.errors import ConfigError, MissingExtraError
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.imports import require
from fastadv.train.runtime.processes import Processes

# How many broken images the picture shows.
PICTURED = 6


def evaluate(
    config: AttackConfig, prepared: PreparedAttack, folder: Path, processes: Processes, show: Callable[[str], object]
) -> None:
    """Attack what `folder` has no verdict on, and write result.json, report.md and broken.png there; save the images.

    Of several processes the first alone writes, and calls ``show`` with the summary and what was saved.
    """
    evaluated = run_autoattack(config, prepared, folder, processes)
    if not processes.first:
        return
    result = summarise(config, prepared, evaluated)
    summary = _summary(config, result, describe_images(config, prepared))
    title = f"{config.model} on {config.data} under AutoAttack"
    sections = [summary, class_table(result, "robust, %")]
    # What took hours is kept and shown before anything that may fail: a full disk, a picture.
    write_files(folder, result, title, *sections)
    show(summary)
    if config.save is not None:
        show(_save_images(config.save, config, prepared, evaluated))
    if _draw(prepared, evaluated, folder / "broken.png"):
        sections += ["## Some broken images", "![broken images](broken.png)"]
        write_files(folder, result, title, *sections)


def _draw(prepared: PreparedAttack, evaluated: Evaluated, path: Path) -> bool:
    """Draw some broken images; False where there are none, or no library draws them."""
    broken = (evaluated.broken_by >= 0).nonzero().flatten()[:PICTURED]
    if not len(broken):
        return False
    x, _ = prepared.batch(broken)
    found = evaluated.images[broken].to(x.device)
    names = [evaluated.attacks[int(stage)] for stage in evaluated.broken_by[broken]]
    try:
        draw_broken(prepared.network, prepared.dataset, x, found, names, path)
    except MissingExtraError as error:
        print(f"note: no picture of broken images: {error}", flush=True)
        return False
    return True


def check_save(config: AttackConfig, prepared: PreparedAttack) -> None:
    """Raise ConfigError or MissingExtraError where the images could not be saved as config.save says."""
    path = config.save
    if path is None:
        return
    if path.suffix == ".npz":
        if path.is_dir():
            raise ConfigError(f"save: {str(path)!r} is a folder, expected a file NAME.npz")
        if not path.parent.is_dir():
            raise ConfigError(f"save: {str(path)!r}, but there is no folder {path.parent}")
        return
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"save: {str(path)!r}, but {there.name} is no folder")
    channels = prepared.dataset.image_shape[0]
    if channels not in (1, 3, 4):
        raise ConfigError(
            f"save: {str(path)!r}, but PNG holds images of 1, 3 or 4 channels, not {channels}; NAME.npz holds any"
        )
    require("PIL.Image", "--save")


def summarise(config: AttackConfig, prepared: PreparedAttack, evaluated: Evaluated) -> dict[str, Any]:
    """Return what result.json says of the attack. Accuracies are shares in [0, 1], intervals Wilson's of 95 %."""
    result = evaluated.result()
    count = len(evaluated.broken_by)
    clean, robust = evaluated.broken_by != -2, evaluated.broken_by == -1
    x, _ = prepared.batch(torch.arange(count))
    return {
        **setup(config, count),
        "clean": share(int(clean.sum()), count),
        "robust": share(int(robust.sum()), count),
        "stages": [
            {
                "attack": stage.attack,
                "attacked": stage.attacked,
                "broken": stage.broken,
                "robust": share(round(stage.robust_accuracy * count), count),
                "seconds": stage.seconds,
            }
            for stage in result.stages
        ],
        "classes": count_classes(prepared.dataset, clean.tolist(), robust.tolist()),
        "broken_by": evaluated.broken_by.tolist(),
        "largest_distance": distances(evaluated.images, x.cpu(), config.keywords["norm"]).max().item(),
        "warnings": list(result.warnings),
    }


def _save_images(path: Path, config: AttackConfig, prepared: PreparedAttack, evaluated: Evaluated) -> str:
    """Save the images to a .npz, or as 8-bit PNG into a folder; return what became of them, in a sentence.

    The file has images [n, C, H, W] in float32, labels, places in the split and broken_by [n]. As PNG go the broken
    images, every pixel rounded towards the clean one, so that they stay in the ball.
    """
    labels = prepared.dataset.test.labels[: len(evaluated.places)].cpu()
    if path.suffix == ".npz":
        tensors = {"images": evaluated.images.float().contiguous(), "labels": labels}
        tensors |= {"places": evaluated.places, "broken_by": evaluated.broken_by}
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
        return f"{path}: {len(labels)} images in float32, {int((evaluated.broken_by >= 0).sum())} of them adversarial"
    broken = (evaluated.broken_by >= 0).nonzero().flatten()
    clean = prepared.batch(broken)[0].cpu()
    rounded = to_8_bits(evaluated.images[broken], clean)
    # A level of k/255 is off by up to 3e-8 in float32, whatever the radius.
    inside = distances(rounded, clean, config.keywords["norm"]) <= config.eps + 1e-6 * max(config.eps, 1)
    image = require("PIL.Image", "--save")
    path.mkdir(parents=True, exist_ok=True)
    for place, picture in zip(evaluated.places[broken].tolist(), rounded, strict=True):
        array = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(path / f"{place:07d}.png")
    with torch.no_grad():
        said = [prepared.network(part.to(config.device)).argmax(1).cpu() for part in rounded.split(config.batch_size)]
    counts = int(((torch.cat(said) != labels[broken]) & inside).sum())
    count = f"of which {counts} still count: misclassified and in the ball"
    return f"{path}: {len(broken)} broken images as 8-bit PNG, {count}"


def to_8_bits(x: Tensor, clean: Tensor) -> Tensor:
    """Return ``x`` on the grid of 1/255, each pixel rounded towards that of ``clean``."""
    up = torch.ceil(x * 255 - 1e-3) / 255
    down = torch.floor(x * 255 + 1e-3) / 255
    return torch.where(x > clean, down, up).clamp(0, 1)


def _summary(config: AttackConfig, result: Mapping[str, Any], images: str) -> str:
    rows = [["", "attacked", "broken", "robust accuracy, %", "95 % interval, %", "seconds"]]
    rows.append(["clean", "", str(result["images"] - result["clean"]["correct"]), *interval_cells(result["clean"]), ""])
    for stage in result["stages"]:
        counts = [stage["attack"], str(stage["attacked"]), str(stage["broken"])]
        rows.append([*counts, *interval_cells(stage["robust"]), f"{stage['seconds']:.1f}"])
    notes = [
        f"AutoAttack, {result['attack']['version']}: {result['attack']['norm']}, eps {config.eps:.7g} ="
        f" {255 * config.eps:.6g}/255, on a copy frozen in {config.dtype}; {config.model} as loaded, in {JUDGE},"
        " judges.",
        "The last number is the verdict; those before it are upper bounds, as an attack only sees what still stands.",
        images,
        f"Largest distance from a clean image: {result['largest_distance']:.7g}, computed in float64.",
        "Interval: Wilson's score interval, over images.",
        *(f"Warning: {warning}." for warning in result["warnings"]),
    ]
    return render_table(rows) + "\n\n" + "\n".join(f"- {note}" for note in notes)
