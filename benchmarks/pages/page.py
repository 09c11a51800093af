"""Write the figures of both README.md and the pictures from the committed results.

The prose is in the README.md themselves, around the markers.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.pages import plots, tables
from benchmarks.pages.markers import filled
from benchmarks.suite import results

HERE = Path(__file__).parents[1]
MARKERS = "tables"
FRONT_PAGE = results.FOLDER / "amd-epyc-2-cores-0.1.0.json"
FRONT_CASES = (
    "pgd_step linf 16x3x32x32",
    "pgd_step linf 128x3x32x32",
    "pgd_step l2 128x3x32x32",
    "pgd_step l1 exact 128x3x32x32",
    "momentum_step linf 128x3x32x32",
    "mix 128x3x32x32",
    "svgd_step 128x4x3072",
    "kl_distill 64x100 forward + backward",
    "kd_loss 64x100 forward + backward",
    "dkd_loss 64x100 forward + backward",
    "kl_distill 64x100 value and gradient",
    "attack_loss dlr 64x100 value and gradient",
    "triplet_margin_loss 64x256 forward + backward",
    "rkd_loss 64x256 forward + backward",
    "activation_boundary 64x64x32x32 fwd + bwd",
    # Where others come closest: formulas of few calls, and whole attacks, which are mostly the network.
    "loss_matching 64x100 forward + backward",
    "igdm_loss 64x100 forward + backward",
    "attack pgd linf, 10 steps on a small network, 32x3x32x32",
    "attack apgd, 10 steps on a small network, 32x3x32x32",
    "attack svgd, 10 steps on a small network, 32x3x32x32",
)


def main() -> None:
    for path in results.files():
        for picture in plots.draw(path):
            print(f"wrote {picture}")
    for page, text in pages().items():
        page.write_text(filled(page.read_text(), MARKERS, text))
        print(f"wrote {page}")


def pages() -> dict[Path, str]:
    """What stands between the markers of each page."""
    every = [tables.machine_page(path.stem, results.read(path), plots.links(path)) for path in results.files()]
    front = tables.front_table(results.read(FRONT_PAGE)["rows"], FRONT_CASES)
    return {HERE / "README.md": "\n\n".join(every), HERE.parent / "README.md": front}


if __name__ == "__main__":
    main()
