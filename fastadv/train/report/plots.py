"""The pictures of reports: training curves, particles, and the accuracies of several runs."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv.distill import TALD
from fastadv.train.data.splits import Dataset, to_pixels
from fastadv.train.report.results import MethodResults
from fastadv.train.runtime.imports import require

Rows = list[dict[str, Any]]

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
LOOKS = [(style, colour) for style in ("-", "--", ":") for colour in COLOURS]
PICTURED_IMAGES = 4
PARTICLE_SEED = 0


def draw_curves(metrics: dict[str, dict[str, list[Rows]]], path: Path, *, steps_per_epoch: int) -> None:
    """Test accuracy and training loss over the epochs, and how particles repel where a method reports it.

    A line for the mean of the seeds, in the band that they span; what was measured once a run is no line, but a row a
    method, with a dot a seed and a diamond for their mean. metrics: by method, then "train" or "test", rows for each
    seed, of which those are drawn whose step all seeds of the method have: the last one at least.
    """
    metrics = {label: {kind: _in_common(seeds) for kind, seeds in kinds.items()} for label, kinds in metrics.items()}
    panels = [
        ("test", "accuracy", 100, {"ylabel": "test accuracy, %", "title": "Accuracy on clean test images"}),
        ("train", "loss", 1, {"ylabel": "loss", "title": "Training loss (each method minimises its own)"}),
        ("train", "repulsion", 1, {"ylabel": "repulsion / attraction", "title": "Particles"}),
    ]
    panels = [panel for panel in panels if any(_has(kinds[panel[0]], panel[1]) for kinds in metrics.values())]
    figure = _figure(5.5 * len(panels), 4)
    for axes, (kind, key, scale, texts) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = {label: kinds[kind] for label, kinds in metrics.items() if _has(kinds[kind], key)}
        if all(len(rows) == 1 for seeds in shown.values() for rows in seeds):
            ends = {label: _values(seeds, key, scale)[:, 0].tolist() for label, seeds in shown.items()}
            _draw_rows(axes, ends, xlabel=texts["ylabel"], title=f"{texts['title']}, after the last step")
            continue
        for label, (style, colour) in zip(metrics, LOOKS * len(metrics), strict=False):
            if label in shown:
                epochs = [row["step"] / steps_per_epoch for row in shown[label][0]]
                values = _values(shown[label], key, scale)
                _draw_seeds(axes, epochs, values, label, {"color": colour, "linestyle": style})
        # Some methods minimise what may be negative.
        if kind == "train" and 0 < 10 * axes.dataLim.y0 < axes.dataLim.y1:
            axes.set_yscale("log")
        axes.set(xlabel="epoch", **texts)
        axes.grid(alpha=0.3)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines if line.get_label() in metrics}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(panels), fontsize="small")
    figure.savefig(path, dpi=130)


def _figure(width: float, height: float, purpose: str = "the report's pictures") -> Any:
    return require("matplotlib.figure", purpose).Figure(figsize=(width, height), layout="constrained")


def _has(seeds: list[Rows], key: str) -> bool:
    return all(key in row for rows in seeds for row in rows)


def _in_common(seeds: list[Rows]) -> list[Rows]:
    """Return the rows of the steps that every seed has: a resumed run may have other log_steps, and more epochs."""
    steps = set[int].intersection(*({row["step"] for row in rows} for rows in seeds))
    return [[row for row in rows if row["step"] in steps] for rows in seeds]


def _draw_seeds(axes: Any, epochs: list[float], values: np.ndarray, label: str, style: dict[str, str]) -> None:
    """Draw the mean of values [seeds, rows] over the epochs [rows] in the band that they span."""
    axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(epochs, values.mean(axis=0), linewidth=1.5, label=label, **style)


def _draw_rows(axes: Any, rows: Mapping[str, list[float]], *, spread: bool = False, **texts: str) -> None:
    """Draw a row a name: a dot a value, a diamond for their mean, and with ``spread`` their standard deviation."""
    for place, (values, colour) in enumerate(zip(rows.values(), itertools.cycle(COLOURS), strict=False)):
        axes.plot(values, [place] * len(values), ".", color=colour, alpha=0.5)
        error = statistics.stdev(values) if spread and len(values) > 1 else None
        axes.errorbar(statistics.mean(values), place, xerr=error, fmt="D", color=colour, capsize=4)
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(**texts)
    axes.grid(alpha=0.3)


def _values(seeds: list[Rows], key: str, scale: float) -> np.ndarray:
    """[seeds, rows]. What was not finite is null in the metrics, NaN here, and a gap in a line."""
    return scale * np.array([[row[key] for row in rows] for rows in seeds], dtype=float)


def draw_comparison(methods: Sequence[MethodResults], accuracies: Mapping[str, str], path: Path) -> None:
    """Each of the accuracies, named as they are called, of each method: a dot a seed, the mean and its deviation."""
    figure = _figure(5.5 * len(accuracies), 1.2 + 0.4 * len(methods), "the picture of a comparison")
    panels = figure.subplots(1, len(accuracies), sharey=True)
    for axes, (key, name) in zip(panels, accuracies.items(), strict=True):
        rows = {
            f"{method.label}, n = {len(method.seeds)}": [100 * value for value in method.values(key).values()]
            for method in methods
        }
        _draw_rows(axes, rows, spread=True, xlabel=f"{name}, %")
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
    kinds = [f"particle {number}" for number in range(1, 1 + particles.shape[1])]
    images = torch.cat((x[:, None], particles), dim=1)
    differences = [f"{kind} - clean" for kind in kinds]
    figure, largest = _draw_changes(teacher, dataset, images, [["clean", *kinds]] * len(x), differences)
    figure.suptitle(f"Clean images, their particles with the teacher's class, differences (largest {largest:.3g} of 1)")
    figure.savefig(path, dpi=110)


def draw_broken(
    network: nn.Module, dataset: Dataset, x: Tensor, adversarial: Tensor, attacks: Sequence[str], path: Path
) -> None:
    """Draw a row for each broken image: the clean one, the adversarial one and the difference.

    Titles name the classes that the network says and the attack that broke the image. Differences are shown as in
    :func:`draw_particles`.
    """
    images = torch.stack((x, adversarial), dim=1)
    figure, _ = _draw_changes(network, dataset, images, [["clean", attack] for attack in attacks], ["difference"])
    figure.savefig(path, dpi=110)


def _draw_changes(
    network: nn.Module, dataset: Dataset, images: Tensor, kinds: Sequence[Sequence[str]], differences: Sequence[str]
) -> tuple[Any, float]:
    """Draw a row for each of images [R, K, C, H, W], of which the first of K is clean, and its K - 1 differences.

    kinds: what the images of each row are, in their titles beside the class that the network says. differences: titles
    of these. Returns the figure and the largest difference.
    """
    with torch.no_grad():
        classes = network(images.flatten(0, 1)).argmax(dim=1).view(images.shape[:2]).tolist()
    changes = (images[:, 1:] - images[:, :1]).mean(dim=2).cpu().numpy()
    largest = float(abs(changes).max())
    # One channel is drawn in grey and three are colours; of any other number the mean is drawn.
    shown = images if images.shape[2] in (1, 3) else images.mean(dim=2, keepdim=True)
    # Particles drawn without bounds may leave the range of pixels.
    pictures = shown.clamp(0, 1).movedim(2, -1).cpu().numpy()
    columns = len(kinds[0]) + len(differences)
    figure = _figure(1.3 * (columns + 1), 1.5 * len(images) + 0.6)
    grid = figure.subplots(len(images), columns, squeeze=False)
    for row, axes in enumerate(grid):
        titles = [f"{kind}: {dataset.class_names[label]}" for kind, label in zip(kinds[row], classes[row], strict=True)]
        for place, title in enumerate([*titles, *differences]):
            axes[place].set_title(title, fontsize=7, parse_math=False)
            axes[place].set_axis_off()
        for axis, picture in zip(axes, pictures[row], strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)  # colours are shown as they are
        for axis, change in zip(axes[len(titles) :], changes[row], strict=True):
            shades = axis.imshow(change, cmap="RdBu_r", vmin=-(largest or 1), vmax=largest or 1)
    mean = {1: "", 3: " (mean of colours)"}.get(images.shape[2], " (mean of channels)")
    figure.colorbar(shades, ax=grid[:, -1], label=f"difference{mean}")
    return figure, largest
