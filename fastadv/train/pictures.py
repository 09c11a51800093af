"""The two pictures of a report: training curves and particles."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.distill import TALD
from fastadv.train.datasets import Dataset, to_pixels
from fastadv.train.extras import require

Rows = list[dict[str, Any]]

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
PICTURED_IMAGES = 4
PARTICLE_SEED = 0


def draw_curves(curves: dict[str, dict[str, list[Rows]]], path: Path) -> None:
    """Test accuracy and training loss over the steps: one thin line a seed, one thick line for their mean.

    curves: by method, then "train" or "test", one list of metrics rows a seed.
    """
    figure = require("matplotlib.figure", "the report's pictures").Figure(figsize=(11, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for colour, (label, kinds) in zip(COLOURS, curves.items(), strict=False):
        _draw_seeds(accuracy, kinds["test"], "accuracy", label, colour, scale=100)
        _draw_seeds(loss, kinds["train"], "loss", label, colour)
    accuracy.set(xlabel="step", ylabel="test accuracy, %", title="Accuracy on clean test images")
    loss.set(xlabel="step", ylabel="loss", yscale="log", title="Training loss (each method minimises its own)")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
    accuracy.legend(loc="lower right")
    figure.savefig(path, dpi=130)


def _draw_seeds(axes: Any, seeds: list[Rows], key: str, label: str, colour: str, scale: float = 1.0) -> None:
    steps = [row["step"] for row in seeds[0]]
    values = [[scale * row[key] for row in rows] for rows in seeds]
    for line in values:
        axes.plot(steps, line, color=colour, linewidth=0.6, alpha=0.5)
    mean = [sum(column) / len(column) for column in zip(*values, strict=True)]
    axes.plot(steps, mean, color=colour, linewidth=2, label=label)


def draw_particles(method: TALD, teacher: nn.Module, dataset: Dataset, path: Path) -> None:
    """A row per test image: the image, its particles as the teacher sees them, and the differences amplified.

    The amplification brings the largest difference of the picture to full contrast and is written above it.
    """
    chosen = [int((dataset.test.labels == label).nonzero()[0]) for label in range(PICTURED_IMAGES)]
    labels = dataset.test.labels[chosen]
    x = to_pixels(dataset.test.images[chosen])
    particles = method.draw(teacher, x, labels, seed=PARTICLE_SEED)
    with torch.no_grad():
        clean_classes = teacher(x).argmax(dim=1)
        classes = teacher(particles.flatten(0, 1)).argmax(dim=1).view(particles.shape[:2])
    difference = particles - x[:, None]
    largest = difference.abs().max().item()
    amplification = float(f"{0.5 / largest:.2g}") if largest else 1.0
    amplified = (0.5 + amplification * difference).clamp(0, 1)

    n = particles.shape[1]
    figure = require("matplotlib.figure", "the report's pictures").Figure(
        figsize=(1.3 * (2 * n + 1), 1.5 * len(x) + 0.6), layout="constrained"
    )
    grid = figure.subplots(len(x), 2 * n + 1, squeeze=False)
    names = dataset.class_names
    for row, axes in enumerate(grid):
        _show(axes[0], x[row], f"clean: {names[clean_classes[row]]}")
        for i in range(n):
            _show(axes[1 + i], particles[row, i], f"particle {i + 1}: {names[classes[row, i]]}")
            _show(axes[1 + n + i], amplified[row, i], f"difference x {amplification:g}")
    figure.suptitle(f"Clean images, their particles with the teacher's class, differences (largest {largest:.3g} of 1)")
    figure.savefig(path, dpi=110)


def _show(axes: Any, image: Tensor, title: str) -> None:
    # Particles drawn without bounds may leave the range of pixels.
    picture = image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    if picture.shape[2] == 1:
        axes.imshow(picture[:, :, 0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(picture)
    axes.set_title(title, fontsize=7)
    axes.set_axis_off()
