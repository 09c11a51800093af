"""Derives what each kernel should take on an H100 from the compiled code; ``--write`` keeps csrc/cuda/PERFORMANCE.md.

Nothing is run on a GPU. The sources are compiled for sm_90; registers, shared memory and the width and number of the
loads of the float32 kernels are read from the machine code, by cuobjdump, which comes with CUDA and with Triton. Grids,
passes and bytes are what the launchers in csrc/cuda ask for, restated here with the constants read from there. From
these follow occupancy, waves and an expected time, by the model that the page states.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nvcc
import resources

CUDA = Path(__file__).resolve().parents[1] / "cuda"
PAGE = CUDA / "PERFORMANCE.md"

# An H100 SXM: multiprocessors, and of each registers, warps, blocks and bytes of shared memory.
MULTIPROCESSORS, REGISTERS, WARPS, BLOCKS, SHARED = 132, 65536, 64, 32, 233_472
# Bytes a second of a large copy, of what lies in the L2 cache, and the bytes of it that stay there.
MEMORY, CACHE, CACHE_BYTES = 3.0e12, 5.5e12, 40e6
# Seconds that a kernel of a graph takes at least, that a thread waits for memory once, that it waits for a sum over its
# block or warp (shuffles, two barriers and shared memory, some 350 clocks), and for one over a cluster: one over the
# block, and three messages between multiprocessors, of 180 clocks each (arXiv:2402.13499), arrive, release and read.
LAUNCH, TRIP, SUM, EXCHANGE = 1.5e-6, 0.7e-6, 0.2e-6, 0.5e-6
# A cluster lies within a group of multiprocessors, of which there are so many of at least that size. Bytes a second of
# a multiprocessor's shared memory: 128 a clock of 1.7 GHz.
GROUPS, GROUP, ON_CHIP = 8, 16, 128 * 1.7e9
# Bytes a second that a multiprocessor reads of others' shared memory: an assumption, 12 a clock.
OTHERS = 12 * 1.7e9
FLOAT = 4
# The share of the floor that a case which moves so many bytes is meant to reach.
GOAL, LARGE = 0.85, 64e6


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: a regular expression for the beginning of the compiled kernel's name.
        memory: bytes read from and written to device memory.
        cached: bytes read again, from the L2 cache.
        trips: how often a thread waits for memory, one after the other.
        sums: how often for a sum over its block or warp.
        exchanges: how often for a sum over its cluster.
        cluster: blocks of a cluster, 0 where there are none.
        room: bytes of shared memory that a block of one asks for, which are on their way at once.
        on_chip: bytes that a block of one writes to and reads from it.
        others: bytes that it reads of the other blocks' shared memory.
        ahead: of ``memory``, what a cluster has brought to the cache for the one after it.
    """

    kernel: str
    blocks: int
    threads: int
    memory: float
    cached: float = 0.0
    trips: int = 1
    cluster: int = 0
    room: int = 0
    on_chip: float = 0.0
    others: float = 0.0
    sums: int = 0
    exchanges: int = 0
    ahead: float = 0.0

    @property
    def waiting(self) -> float:
        """Return the seconds that a block waits."""
        return self.trips * TRIP + self.sums * SUM + self.exchanges * EXCHANGE

    @property
    def waits(self) -> str:
        """Return what it waits for, in words."""
        counts = {"trip": self.trips, "exchange": self.exchanges, "sum": self.sums}
        return " and ".join(f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count)

    @property
    def reading(self) -> float:
        """Return the seconds that a block of a cluster spends on shared memory."""
        return self.on_chip / ON_CHIP + self.others / OTHERS

    def resident(self, code: Code) -> int:
        """Return how many of its blocks a multiprocessor holds."""
        return code.resident(self.threads, self.room)

    def at_once(self, code: Code) -> int:
        """Return how many of its blocks the GPU holds."""
        resident = self.resident(code)
        if not self.cluster:
            return resident * MULTIPROCESSORS
        return GROUPS * (GROUP * resident // self.cluster) * self.cluster

    def waves(self, code: Code) -> float:
        return self.blocks / self.at_once(code)


@dataclass(frozen=True)
class Case:
    """``floor``: bytes of every input read once and every output written once."""

    name: str
    source: str
    floor: float
    launches: tuple[Launch, ...]


@dataclass(frozen=True)
class Code:
    """Resources of the machine code of a kernel and how wide its accesses of global memory are, by bits.

    Shared memory is that of cuobjdump, with the kilobyte of a block that is the system's.
    """

    registers: int
    shared: int
    loads: Mapping[int, int]
    stores: Mapping[int, int]

    def resident(self, threads: int, room: int = 0) -> int:
        """Return how many blocks of so many threads, and bytes of room each, a multiprocessor holds."""
        warps = math.ceil(threads / 32)
        registers = math.ceil(self.registers * 32 / 256) * 256 * warps
        return min(BLOCKS, WARPS // warps, REGISTERS // registers, SHARED // max(1, self.shared + room))

    @property
    def bytes_on_their_way(self) -> int:
        """Return the bytes of a thread's loads; those in a loop are counted once."""
        return sum(bits // 8 * count for bits, count in self.loads.items())


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


def cached(rereads: float, working_set: float) -> tuple[float, float]:
    """Split bytes that are read again into those from memory and those from the cache, by what is in use at a time."""
    return (0.0, rereads) if working_set <= CACHE_BYTES else (rereads, 0.0)


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
        launches = [Launch(f"warp_rows<HeldRow<{runs}, {of}", blocks, 128, read + written, sums=2)]
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


def cases() -> list[Case]:
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
            sums=3,
        ),
        held_sample(
            "boundary_samples<true, 4, float, float>", "bss_step 4096x3x32x32", 4096, cifar, 3, "step.cu", sums=2
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


def compiled(compiler: str, source: str, folder: Path) -> dict[str, Code]:
    """Return, by name, the kernels of a source compiled for sm_90."""
    target = folder / f"{source}.o"
    options = nvcc.architecture_options("9.0")
    nvcc.compile_object(compiler, CUDA / source, target, *options)
    usage = _cuobjdump("-res-usage", target)
    used = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:\d+ SHARED:(\d+)", usage)
    machine = dict(block.split("\n", 1) for block in _cuobjdump("-sass", target).split("Function : ")[1:])
    names = resources.demangled([symbol for symbol, _, _ in used])
    return {
        name: Code(int(registers), int(shared), *(_accesses(machine[symbol], kind) for kind in ("LDG", "STG")))
        for name, (symbol, registers, shared) in zip(names, used, strict=True)
    }


def _accesses(code: str, kind: str) -> dict[int, int]:
    found: Counter[int] = Counter()
    # What goes from global to shared memory past the registers (LDGSTS) is a load as well.
    for modifiers in re.findall(rf"\b{kind}(?:STS)?((?:\.\w+)*) ", code):
        width = re.search(r"\.(?:U|S)?(8|16|64|128)\b", modifiers)
        found[int(width[1]) if width else 32] += 1
    return dict(sorted(found.items(), reverse=True))


def _cuobjdump(option: str, target: Path) -> str:
    program = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if program is None and triton and triton.origin:
        program = str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    if program is None:
        raise SystemExit("cuobjdump is neither on the PATH nor in Triton")
    return subprocess.run([program, option, str(target)], capture_output=True, text=True, check=True).stdout


def kernel_of(launch: Launch, codes: Mapping[str, Code]) -> tuple[str, Code]:
    """Return the only compiled kernel that a launch names."""
    found = [(name, code) for name, code in codes.items() if re.match(launch.kernel, name)]
    if len(found) != 1:
        raise SystemExit(f"{launch.kernel}: {len(found)} kernels of that name: {[name for name, _ in found]}")
    return found[0]


@dataclass(frozen=True)
class Time:
    """Expected seconds of a launch, and what they are spent on: ``trips`` where these are the longer part."""

    seconds: float
    trips: bool


def expected(launch: Launch, code: Code) -> Time:
    """Return the expected time of a launch, by the model that the page states."""
    at_once = launch.at_once(code)
    if launch.cluster:
        return _expected_of_clusters(launch, at_once)
    threads = min(launch.blocks, at_once) * launch.threads
    fill = min(1.0, threads * code.bytes_on_their_way / (MEMORY * TRIP))
    # A multiprocessor alone takes its share of the bandwidth and no more than twice that.
    fill = min(fill, 2 * min(launch.blocks, MULTIPROCESSORS) / MULTIPROCESSORS)
    moving = (launch.memory / MEMORY + launch.cached / CACHE) / fill
    waiting = launch.waiting * max(1.0, math.ceil(launch.waves(code)) / 2)
    return Time(LAUNCH + max(moving, waiting), waiting > moving)


def _expected_of_clusters(launch: Launch, at_once: int) -> Time:
    blocks = min(launch.blocks, at_once)
    used = min(blocks, GROUPS * GROUP)
    together = math.ceil(blocks / used)
    bandwidth = min(MEMORY / used, 2 * MEMORY / MULTIPROCESSORS)
    bandwidth *= min(1.0, blocks * launch.room / (MEMORY * TRIP))
    moving = launch.memory / launch.blocks / bandwidth
    reading, waiting = launch.reading, launch.waiting
    first = together * moving + reading + waiting
    # What all clusters under way fetch has to stay in the cache until it is copied.
    near = launch.ahead / launch.memory if at_once * launch.room <= CACHE_BYTES else 0.0
    alone = moving * (1 - near + near * MEMORY / CACHE) + reading + waiting
    later = max(together * moving, together * reading, alone)
    waves = math.ceil(launch.blocks / at_once)
    return Time(LAUNCH + first + (waves - 1) * later, waves * (reading + waiting) > waves * together * moving)


def reason(case: Case, codes: Mapping[str, Code]) -> str:
    """Return what keeps a case from its floor, in the model's terms."""
    launch = max(case.launches, key=lambda launch: expected(launch, kernel_of(launch, codes)[1]).seconds)
    name, code = kernel_of(launch, codes)
    said = []
    if len(case.launches) > 1:
        said.append(f"{len(case.launches)} launches")
    if launch.cluster or expected(launch, code).trips:
        waves = math.ceil(launch.waves(code))
        said.append(f"{launch.waits} in {waves} {'wave' if waves == 1 else 'waves'} of `{name.split('<')[0]}`")
    if launch.reading:
        said.append(f"{launch.reading * 1e6:.1f} us a block in shared memory")
    again = sum(each.memory + each.cached for each in case.launches) - case.floor
    if again > 0.01 * case.floor:
        said.append(f"{again / 1e6:.1f} MB moved beyond the floor's")
    return ", ".join(said) or "the fill of its first wave"


def page(codes: Mapping[str, Mapping[str, Code]], rows_of: Sequence[Case]) -> str:
    lines = [HEAD, "| case | launches | floor us | expected us | share |", "|---|---|---|---|---|"]
    missed: dict[bool, list[str]] = {True: [], False: []}
    details = ["", "## What the launches do", "", DETAILS]
    columns = ("case", "kernel", "blocks x threads", "registers", "blocks an SM", "waves", "loads", "stores")
    columns += ("MB memory", "MB cache", "trips", "exchanges", "sums", "us")
    details += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for case in rows_of:
        total = 0.0
        for launch, count in Counter(case.launches).items():
            name, code = kernel_of(launch, codes[case.source])
            took = count * expected(launch, code).seconds
            total += took
            cells = (
                case.name,
                f"{count if count > 1 else ''} `{name.split('<')[0]}`".strip(),
                f"{launch.blocks:,} x {launch.threads}" + (f", by {launch.cluster}" if launch.cluster else ""),
                code.registers,
                launch.resident(code),
                f"{launch.waves(code):.2f}",
                _widths(code.loads),
                _widths(code.stores),
                f"{launch.memory / 1e6:.1f}",
                f"{launch.cached / 1e6:.1f}",
                launch.trips,
                launch.exchanges,
                launch.sums,
                f"{took * 1e6:.1f}",
            )
            details.append("| " + " | ".join(map(str, cells)) + " |")
        floor = max(case.floor / MEMORY, TRIP) + LAUNCH
        share = f"{floor / total:.0%}"
        lines.append(f"| {case.name} | {len(case.launches)} | {floor * 1e6:.1f} | {total * 1e6:.1f} | {share} |")
        if round(floor / total, 2) < GOAL:
            missed[case.floor >= LARGE].append(f"- {case.name} ({share}): {reason(case, codes[case.source])}")
    lines += ["", f"Below the goal of {GOAL:.0%} from {LARGE / 1e6:.0f} MB up{':' if missed[True] else ': none.'}", ""]
    lines += [*missed[True], *([""] if missed[True] else [])]
    lines += ["Smaller cases so far from their floor, and why:", "", *missed[False]]
    return "\n".join(lines + details) + "\n"


def _widths(accesses: Mapping[int, int]) -> str:
    return ", ".join(f"{count} of {bits}" for bits, count in accesses.items()) or "none"


HEAD = f"""# What the CUDA kernels should take on an H100

**Nothing here was measured: no kernel of fastadv has run on a GPU yet.** The page is derived by
`python csrc/tools/performance.py --write` from the code that nvcc makes for sm_90 in float32, so that a first real run
(`make gpu-check`) confirms or refutes it row by row.

The model: {MULTIPROCESSORS} multiprocessors of {REGISTERS:,} registers; {MEMORY / 1e12:.1f} TB/s of device memory and
{CACHE / 1e12:.1f} of the L2 cache, of which {CACHE_BYTES / 1e6:.0f} MB hold what is read again; {LAUNCH * 1e6:.1f} us
a kernel of a CUDA graph; {TRIP * 1e6:.1f} us a trip to memory, {SUM * 1e6:.1f} a sum over a block or a warp, \
{EXCHANGE * 1e6:.1f} an exchange, which is a sum
over a cluster (180 clocks a message between multiprocessors, arXiv:2402.13499). A launch takes the longer of moving its
bytes and of its dependent trips, exchanges and sums, which two blocks of a multiprocessor overlap. Bandwidth is had in
full only where the loads of all resident threads add up to what is on its way in one trip; of it a multiprocessor takes
twice its share at most. The floor is one launch, every input read once and every output written once, and a trip at
least. The model knows nothing of instruction issue, of bank conflicts or of the tail of a last wave: expect longer
times, and where they are much longer one of these as the reason.

Blocks of a cluster lie within one of {GROUPS} groups of {GROUP} multiprocessors; the others are no use to them. A block
reads its shared memory at {ON_CHIP / 1e9:.0f} GB/s and that of others, as we assume, at {OTHERS / 1e9:.0f}; neither of
these, nor an exchange, overlaps the block's own loads. Of the first blocks of a multiprocessor all load together; of
the later ones each takes the longest of what all of them move, what all of them read of shared memory, and what one of
them takes for both and its trips. What a cluster fetches for the one after it, while it waits, that one copies from the
cache.
"""
DETAILS = """Loads and stores: instructions in the machine code by width in bits; those of a loop are counted once.
Waves: blocks over the blocks that fit at a time. "By": blocks of a cluster.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"keep the page in {PAGE.name}")
    arguments = parser.parse_args()
    compiler = nvcc.find()
    if compiler is None:
        raise SystemExit("nvcc is neither under CUDA_HOME nor on the PATH")
    chosen = cases()
    sources = sorted({case.source for case in chosen})
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda source: compiled(compiler, source, Path(folder)), sources)
        text = page(dict(zip(sources, found, strict=True)), chosen)
    print(text)
    if arguments.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
