"""The cases of the page: what the launchers in csrc/cuda ask for, restated with the constants read from there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from performance.model import FLOAT, Launch

CUDA = Path(__file__).resolve().parents[2] / "cuda"


@dataclass(frozen=True)
class Case:
    """``floor``: bytes of every input read once and every output written once."""

    name: str
    source: str
    floor: float
    launches: tuple[Launch, ...]


def constant(file: str, name: str) -> int:
    """Return an integer constant of a file in csrc/cuda."""
    match = re.search(rf"constexpr \w+ {name} = ([\d']+)(?: \* (\d+))?;", (CUDA / file).read_text())
    if match is None:
        raise SystemExit(f"{file} has no constant {name}")
    return int(match[1].replace("'", "")) * int(match[2] or 1)


def block_threads(items: float) -> int:
    threads = 32
    while threads < constant("launch.h", "kMaxThreads") and threads < items:
        threads *= 2
    return threads


def elements(kernel: str, source: str, name: str, arrays: int, count: int) -> Case:
    """A kernel of 256 threads that takes 16 bytes of each array a thread."""
    moved = arrays * count * FLOAT
    return Case(name, source, moved, (Launch(kernel, math.ceil(count / 1024), 256, moved),))


def held_sample(
    kernel: str, name: str, samples: int, size: int, arrays: int, source: str, trips: int = 1, sums: int = 0
) -> Case:
    """A block a sample that stays in its registers."""
    threads = math.ceil(size / (constant("step.h", "kHeldBytes") // FLOAT) / 32) * 32
    moved = arrays * samples * size * FLOAT
    return Case(name, source, moved, (Launch(kernel, samples, threads, moved, trips=trips, sums=sums),))


def cluster_launch(
    kernel: str, count: int, size: int, arrays: int, memory: float, passes: int, exchanges: int, **bounds: float
) -> Launch:
    """Return a launch of a cluster for each of ``count`` runs of ``size`` elements in so many arrays.

    ``passes``: over a block's part of one array in shared memory, beside the copy. ``bounds``: elements that a thread
    takes at once (``width``, 4), ``tiles`` that take the same, most ``threads`` and bytes of the arrays (``most``) of a
    block, bytes ``beside`` them, bytes that it reads of each of the ``others``, bytes ``added`` up by all together, of
    which it reads its share from the others and gives them the sums, bytes of all that come ``ahead``, and ``sums``
    over the block.
    """
    most = bounds.get("most", constant("cluster.h", "kHalfRoom"))

    def wanted(blocks: int) -> bool:
        few, held = count * blocks < constant("cluster.h", "kEnoughClusterBlocks"), arrays * size * FLOAT
        least = 2 * constant("cluster.h", "kLeastRoom")
        return held > blocks * most or (few and held >= blocks * least)

    blocks = 1
    while blocks < constant("launch.h", "kMostClusterBlocks") and wanted(blocks):
        blocks *= 2
    share = math.ceil(math.ceil(size / blocks) / 4) * 4
    runs = share // int(bounds.get("width", 4)) * int(bounds.get("tiles", 1))
    threads = min(math.ceil(runs / 32) * 32, int(bounds.get("threads", constant("cluster.h", "kClusterThreads"))))
    room = int(arrays * (share + 4) * FLOAT + bounds.get("beside", 0))
    on_chip = (arrays + passes) * share * FLOAT
    others = (bounds.get("others", 0) + 2 * bounds.get("added", 0) / blocks) * (blocks - 1)
    return Launch(
        kernel,
        count * blocks,
        threads,
        memory,
        exchanges=exchanges,
        sums=int(bounds.get("sums", 0)),
        cluster=blocks,
        room=room,
        on_chip=on_chip,
        others=others,
        ahead=bounds.get("ahead", 0),
    )


def cluster_sample(
    kernel: str, name: str, samples: int, size: int, passes: int, exchanges: int, others: int = 0
) -> Case:
    """A step of a cluster a sample."""
    moved = 4 * samples * size * FLOAT
    launch = cluster_launch(kernel, samples, size, 3, moved, passes, exchanges, others=others, ahead=moved * 3 / 4)
    return Case(name, "step.cu", moved, (launch,))


def mix_backward(samples: int, size: int) -> Case:
    moved = 3 * samples * size * FLOAT
    threads = constant("mix.cu", "kThreads")
    blocks, each = math.ceil(samples / 32), samples * 8
    turns = math.ceil(samples / threads / constant("mix.cu", "kIndices"))
    searched = Launch("find_mixed", blocks, threads, 3 * each, (blocks - 1) * each, trips=turns + 2)
    gathered = Launch("gather_elements<4, float, float>", math.ceil(samples * size / 1024), threads, moved, trips=3)
    return Case(f"mix_backward {samples}x{size}", "mix.cu", moved, (searched, gathered))


def rows(loss: str, name: str, samples: int, classes: int, inputs: int, grads: int, source: str, *, mean=False) -> Case:
    """A loss over rows, with value and gradients; the reading that a mean takes is a launch of its own."""
    read, written = inputs * samples * classes * FLOAT, (grads * samples * classes + samples) * FLOAT
    each = 32 if inputs <= 2 else 16
    of = rf"\d, float, float>, {loss},"
    if classes <= 32 * each:
        runs = 4 if classes <= 128 else each
        blocks = math.ceil(samples / constant("rows.h", "kRowsABlock"))
        # The maximum and the sum; a divergence from the mean of both has the halves after them.
        sums = 3 if loss == "JsDistill" else 2
        launches = [Launch(f"warp_rows<HeldRow<{runs}, {of}", blocks, 128, read + written, sums=sums)]
    else:
        # The maxima and the sums of all blocks. Both passes read all inputs.
        width = 4 if classes % 4 == 0 else 1
        row = f"cluster_rows<ClusterRow<{width}, {of}"
        launches = [cluster_launch(row, samples, classes, inputs, read + written, 2 * inputs, 2, width=width)]
    if mean:
        launches.append(Launch("sum_values<float>", 1, block_threads(samples), samples * FLOAT, trips=3))
    return Case(name, source, read + written, tuple(launches))


def svgd(images: int, n: int, size: int) -> Case:
    """linf balls and steps by sign, scores brought to the size of the repulsion."""
    floor = (3 * n + 1) * images * size * FLOAT
    tiles = math.ceil(n / 4)
    # Of a tile of either matrix eight vectors are read; of a tile of particles that moves, these and all vectors.
    passes = 2 * 8 * tiles * (tiles + 1) // 2 + tiles * (4 + 2 * n)
    # The parts of the matrices, of which a block reads its share from all and writes it to all; the median, by radix
    # where there are many pairs, the kernel, its scale and the coefficients.
    selected = n * (n - 1) // 2 > constant("svgd.cu", "kFewPairs")
    launch = cluster_launch(
        "move_image<4, float, float>",
        images,
        size,
        2 * n,
        floor,
        passes,
        2,
        sums=8 if selected else 4,
        tiles=tiles,
        threads=constant("svgd.cu", "kImageThreads"),
        most=constant("svgd.cu", "kQuarterRoom"),
        beside=4 * n * n * FLOAT,
        added=2 * n * n * FLOAT,
    )
    return Case(f"svgd_step {images}x{n}x{size}", "svgd.cu", floor, (launch,))


def all_cases() -> list[Case]:
    cifar, imagenet = 3 * 32 * 32, 3 * 224 * 224
    both = (4096 * cifar, 128 * cifar)
    return [
        # Of a sample that stays in registers: its loads; sums for norm, distance and three steps of Newton's method, or
        # three histograms to select coordinates, which take half a sum more, three looks at the threshold, and other
        # loads between. The tests of this page count the sums that samples of normal noise take.
        *(
            elements(
                "move_elements<4, float, float, MoveBySign", "step.cu", f"pgd_step linf {n // cifar}x3x32x32", 4, n
            )
            for n in both
        ),
        *(
            held_sample(
                "move_samples<1, true, 4, float, float, MoveByUnit",
                f"pgd_step l2 {n}x3x32x32",
                n,
                cifar,
                4,
                "step.cu",
                sums=5,
            )
            for n in (4096, 128)
        ),
        held_sample(
            "move_samples<2, true, 4, float, float, MoveLargest",
            "pgd_step l1 4096x3x32x32",
            4096,
            cifar,
            4,
            "step.cu",
            trips=2,
            sums=8,
        ),
        held_sample(
            "momentum_samples<0, true, 4, float, float, MoveBySign",
            "momentum_step linf 4096x3x32x32",
            4096,
            cifar,
            6,
            "step.cu",
            trips=2,
            sums=1,
        ),
        held_sample(
            "boundary_samples<true, 4, float, float>",
            "bss_step 4096x3x32x32",
            4096,
            cifar,
            3,
            "step.cu",
            trips=2,
            sums=1,
        ),
        # A sum for the norm, one for the distance, three of Newton's method. The norm reads the direction, the distance
        # all three arrays, of which it writes one, the others and the last pass two.
        *(
            cluster_sample(
                "move_clusters<1, 4, float, float, MoveByUnit",
                f"pgd_step l2 {n}x3x224x224",
                n,
                imagenet,
                passes=1 + 4 + 3 * 2 + 2,
                exchanges=5,
            )
            for n in (16, 512)
        ),
        # Three histograms to select coordinates of the direction, in two of which all of them may be counted,
        # each a read and a write; three looks at the threshold, and the last pass.
        *(
            cluster_sample(
                "move_clusters<2, 4, float, float, MoveLargest",
                f"pgd_step l1 {n}x3x224x224",
                n,
                imagenet,
                passes=3 + 2 * 2 + 4 + 2 * 2 + 2,
                exchanges=6,
                others=3 * constant("cluster.h", "kSetBytes"),
            )
            for n in (16, 512)
        ),
        elements("mix_elements<4, float, float>", "mix.cu", "mix 4096x3x32x32", 3, 4096 * cifar),
        mix_backward(4096, cifar),
        rows("KlDistill", "kl_distill 16384x1000", 16384, 1000, 2, 1, "divergence.cu"),
        rows("KlDistill", "kl_distill 16384x1000, mean", 16384, 1000, 2, 1, "divergence.cu", mean=True),
        rows("KlDistill", "kl_distill 64x100", 64, 100, 2, 1, "divergence.cu"),
        rows("KlDistill", "kl_distill 4096x32000", 4096, 32000, 2, 1, "divergence.cu"),
        rows("KlDistill", "kl_distill 64x32000", 64, 32000, 2, 1, "divergence.cu"),
        rows("KlDistill", "kl_distill 512x128000", 512, 128000, 2, 1, "divergence.cu"),
        rows("KlDistill", "kl_distill 4096x32001", 4096, 32001, 2, 1, "divergence.cu"),
        rows("KdLoss", "kd_loss 16384x1000", 16384, 1000, 2, 1, "divergence.cu"),
        rows("JsDistill", "js_distill 16384x1000", 16384, 1000, 2, 1, "divergence.cu"),
        svgd(1024, 4, cifar),
        svgd(128, 4, cifar),
        svgd(16, 16, cifar),
        svgd(16, 32, cifar),
    ]
