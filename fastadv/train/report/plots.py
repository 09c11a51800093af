"""The pictures of reports: training curves, particles, and the accuracies of several runs."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.distill import TALD
from fastadv.train.data.splits import Dataset, to_pixels
from fastadv.train.report.results import ACCURACIES, MethodResults
from fastadv.train.runtime.extras import require

Rows = list[dict[str, Any]]

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
PICTURED_IMAGES = 4
PARTICLE_SEED = 0


def draw_curves(metrics: dict[str, dict[str, list[Rows]]], path: Path) -> None:
    """Test accuracy and training loss over the steps, and how particles repel where a method reports it.

    One thin line a seed, one thick line for their mean; what was measured once a run is no line, but a row a method,
    with a dot a seed and a diamond for their mean. metrics: by method, then "train" or "test", rows for each seed.
    """
    panels = [
        ("test", "accuracy", 100, {"ylabel": "test accuracy, %", "title": "Accuracy on clean test images"}),
        ("train", "loss", 1, {"ylabel": "loss", "title": "Training loss (each method minimises its own)"}),
        ("train", "repulsion", 1, {"ylabel": "repulsion / attraction", "title": "Particles"}),
    ]
    panels = [panel for panel in panels if any(_has(kinds[panel[0]], panel[1]) for kinds in metrics.values())]
    figure = require("matplotlib.figure", "the report's pictures").Figure(
        figsize=(5.5 * len(panels), 4), layout="constrained"
    )
    for axes, (kind, key, scale, texts) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = {label: kinds[kind] for label, kinds in metrics.items() if _has(kinds[kind], key)}
        if all(len(rows) == 1 for seeds in shown.values() for rows in seeds):
            _draw_ends(axes, shown, key, scale, texts)
            continue
        for (label, kinds), look in zip(metrics.items(), _looks(), strict=False):
            if label in shown:
                _draw_seeds(axes, kinds[kind], key, scale, label, look)
        # Some methods minimise what may be negative.
        if kind == "train" and axes.dataLim.y0 > 0:
            axes.set_yscale("log")
        axes.set(xlabel="step", **texts)
        axes.grid(alpha=0.3)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines if line.get_label() in metrics}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(panels), fontsize="small")
    figure.savefig(path, dpi=130)


def _has(seeds: list[Rows], key: str) -> bool:
    return all(key in row for rows in seeds for row in rows)


def _looks() -> Iterator[dict[str, str]]:
    """Colours and line styles, without end."""
    styles = itertools.cycle(("-", "--", ":"))
    return ({"color": colour, "linestyle": style} for style in styles for colour in COLOURS)


def _draw_seeds(axes: Any, seeds: list[Rows], key: str, scale: float, label: str, look: dict[str, str]) -> None:
    steps = [row["step"] for row in seeds[0]]
    values = [[_value(row, key, scale) for row in rows] for rows in seeds]
    for line in values:
        axes.plot(steps, line, linewidth=0.6, alpha=0.5, **look)
    mean = [sum(column) / len(column) for column in zip(*values, strict=True)]
    axes.plot(steps, mean, linewidth=2, label=label, **look)


def _draw_ends(axes: Any, methods: dict[str, list[Rows]], key: str, scale: float, texts: dict[str, str]) -> None:
    """What was measured once a run: a row a method."""
    for place, (seeds, look) in enumerate(zip(methods.values(), _looks(), strict=False)):
        values = [_value(rows[0], key, scale) for rows in seeds]
        axes.plot(values, [place] * len(values), ".", color=look["color"], alpha=0.5)
        axes.plot(sum(values) / len(values), place, "D", color=look["color"])
    axes.set_yticks(range(len(methods)), methods, fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel=texts["ylabel"], title=f"{texts['title']}, after the last step")
    axes.grid(alpha=0.3)


def _value(row: dict[str, Any], key: str, scale: float) -> float:
    """What was not finite is null in the metrics, and a gap in a line."""
    return math.nan if row[key] is None else scale * row[key]


def draw_comparison(methods: Sequence[MethodResults], path: Path) -> None:
    """Each accuracy of each method: a dot a seed, the mean and the standard deviation."""
    figure = require("matplotlib.figure", "the picture of a comparison").Figure(
        figsize=(11, 1.2 + 0.4 * len(methods)), layout="constrained"
    )
    panels = figure.subplots(1, len(ACCURACIES), sharey=True)
    for axes, (key, name) in zip(panels, ACCURACIES.items(), strict=True):
        for row, method in enumerate(methods):
            values = [100 * value for value in method.values(key).values()]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            colour = COLOURS[row % len(COLOURS)]
            axes.plot(values, [row] * len(values), ".", color=colour, alpha=0.5)
            axes.errorbar(statistics.mean(values), row, xerr=spread, fmt="D", color=colour, capsize=4)
        axes.set(xlabel=f"{name}, %")
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(methods)), [f"{method.label}, n = {len(method.seeds)}" for method in methods])
    panels[0].invert_yaxis()
    figure.suptitle("Each student, mean ± standard deviation", fontsize="medium")
    figure.savefig(path, dpi=110)


def draw_particles(method: TALD, teacher: nn.Module, dataset: Dataset, path: Path) -> None:
    """A row per test image: the image, its particles as the teacher sees them, and the differences.

    The images are the first of each of the first classes that the test split has. Differences are shown from blue,
    darker than the clean image, over white to red, brighter, up to the largest of the picture, which is written above;
    of colours their mean.
    """
    shown = dataset.test.labels.unique()[:PICTURED_IMAGES]
    chosen = [int((dataset.test.labels == label).nonzero()[0]) for label in shown]
    labels = dataset.test.labels[chosen]
    x = to_pixels(dataset.test.images[chosen])
    particles = method.draw(teacher, x, labels, seed=PARTICLE_SEED)
    with torch.no_grad():
        clean_classes = teacher(x).argmax(dim=1)
        classes = teacher(particles.flatten(0, 1)).argmax(dim=1).view(particles.shape[:2])
    difference = (particles - x[:, None]).mean(dim=2)
    largest = difference.abs().max().item()

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
            shades = _show_difference(axes[1 + n + i], difference[row, i], largest, f"particle {i + 1} - clean")
    figure.colorbar(shades, ax=grid[:, -1], label=f"difference{' (mean of colours)' if x.shape[1] > 1 else ''}")
    figure.suptitle(f"Clean images, their particles with the teacher's class, differences (largest {largest:.3g} of 1)")
    figure.savefig(path, dpi=110)


def draw_broken(
    network: nn.Module, dataset: Dataset, x: Tensor, adversarial: Tensor, attacks: Sequence[str], path: Path
) -> None:
    """Draw a row for each broken image: the clean one, the adversarial one and the difference.

    Titles name the classes that the network says and the attack that broke the image. Differences are shown as in
    :func:`draw_particles`.
    """
    with torch.no_grad():
        classes = [network(images).argmax(dim=1) for images in (x, adversarial)]
    difference = (adversarial - x).mean(dim=1)
    largest = difference.abs().max().item()
    figure = require("matplotlib.figure", "the report's pictures").Figure(
        figsize=(5.2, 1.5 * len(x) + 0.6), layout="constrained"
    )
    grid = figure.subplots(len(x), 3, squeeze=False)
    names = dataset.class_names
    for row, axes in enumerate(grid):
        _show(axes[0], x[row], f"clean: {names[classes[0][row]]}")
        _show(axes[1], adversarial[row], f"{attacks[row]}: {names[classes[1][row]]}")
        shades = _show_difference(axes[2], difference[row], largest, "difference")
    figure.colorbar(shades, ax=grid[:, -1], label=f"difference{' (mean of colours)' if x.shape[1] > 1 else ''}")
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


def _show_difference(axes: Any, difference: Tensor, largest: float, title: str) -> Any:
    """Show [H, W] in colours that diverge from white at zero; the mapping of colours."""
    limit = largest or 1.0
    shades = axes.imshow(difference.cpu().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_title(title, fontsize=7)
    axes.set_axis_off()
    return shades
