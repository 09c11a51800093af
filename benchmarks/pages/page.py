"""Write the figures of README.md and benchmarks/README.md and the pictures from the committed results.

The prose is in the README.md themselves, around the markers.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.pages import overview, plots, tables
from benchmarks.pages.markers import filled
from benchmarks.suite import results

HERE = Path(__file__).parents[1]
MACHINE = "amd-epyc-2-cores"
FRONT_PAGE = results.FOLDER / f"{MACHINE}-avx512-0.1.0.json"
FRONT_CASES = (
    "pgd_step linf 128x3x32x32",
    "pgd_step l1 exact 128x3x32x32",
    "momentum_step linf 128x3x32x32",
    "svgd_step 128x4x3072",
    "kl_distill 64x100 forward + backward",
    "attack fgsm, 1 step on a small network, 32x3x32x32",
    "attack pgd linf, 10 steps on a small network, 32x3x32x32",
    "training step kd, resnet14 to resnet8, 16x3x32x32",
    "training step tald, resnet14 to resnet8, 16x3x32x32",
    "training step igdm, resnet14 to resnet8, 16x3x32x32",
)


def main() -> None:
    for path in results.files():
        for picture in plots.draw(path):
            print(f"wrote {picture}")
    for page, sections in pages().items():
        text = page.read_text()
        for name, between in sections.items():
            text = filled(text, name, between)
        page.write_text(text)
        print(f"wrote {page}")


def pages() -> dict[Path, dict[str, str]]:
    """Text between the markers of each name, page by page."""
    front, studies = results.read(FRONT_PAGE), committed_studies()
    every = [tables.machine_page(path.stem, results.read(path), plots.links(path)) for path in results.files()]
    return {
        HERE / "README.md": {
            "in short": overview.in_short(front, studies),
            "side by side": overview.side_by_side(front, studies),
            "tables": "\n\n".join(every),
        },
        HERE.parent / "README.md": {"speed": overview.front_table(front, studies, FRONT_CASES)},
    }


def committed_studies() -> overview.Studies:
    """Of the machine of the front page."""
    folders = ("attack-loops", "training-step")
    return overview.Studies(*(results.read(results.FOLDER / folder / f"{MACHINE}.json") for folder in folders))


if __name__ == "__main__":
    main()
