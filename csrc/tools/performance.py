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
# Seconds that a kernel of a graph takes at least, and that a thread waits for memory once.
LAUNCH, TRIP = 1.5e-6, 0.7e-6
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
        trips: how often a thread waits for memory or a barrier, one after the other.
    """

    kernel: str
    blocks: int
    threads: int
    memory: float
    cached: float = 0.0
    trips: int = 1


@dataclass(frozen=True)
class Case:
    """``floor``: bytes of every input read once and every output written once."""

    name: str
    source: str
    floor: float
    launches: tuple[Launch, ...]


@dataclass(frozen=True)
class Code:
    """Resources of the machine code of a kernel and how wide its accesses of global memory are, by bits."""

    registers: int
    shared: int
    loads: Mapping[int, int]
    stores: Mapping[int, int]

    def resident(self, threads: int) -> int:
        """Return how many blocks of so many threads a multiprocessor holds."""
        warps = math.ceil(threads / 32)
        registers = math.ceil(self.registers * 32 / 256) * 256 * warps
        return min(BLOCKS, WARPS // warps, REGISTERS // registers, SHARED // (self.shared + 1024))

    @property
    def bytes_on_their_way(self) -> int:
        """Return the bytes of a thread's loads; those in a loop are counted once."""
        return sum(bits // 8 * count for bits, count in self.loads.items())


def constant(file: str, name: str) -> int:
    """Return an integer constant of a file in csrc/cuda."""
    match = re.search(rf"constexpr \w+ {name} = ([\d ']+)(?: \* (\d+))?;", (CUDA / file).read_text())
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


def held_sample(kernel: str, name: str, samples: int, size: int, arrays: int, trips: int, source: str) -> Case:
    """A block a sample that stays in its registers."""
    threads = math.ceil(size / (constant("step.h", "kHeldBytes") // FLOAT) / 32) * 32
    moved = arrays * samples * size * FLOAT
    return Case(name, source, moved, (Launch(kernel, samples, threads, moved, trips=trips),))


def streamed_sample(kernel: str, name: str, samples: int, size: int, passes: Sequence[int]) -> Case:
    """A block a sample that is read again in every pass, of so many arrays each."""
    floor = 4 * samples * size * FLOAT
    resident = min(samples, 2 * MULTIPROCESSORS)
    memory, again = cached((sum(passes) - 3) * samples * size * FLOAT, 3 * resident * size * FLOAT)
    trips = len(passes) * math.ceil(size / 4 / 512)
    return Case(name, "step.cu", floor, (Launch(kernel, samples, 512, floor + memory, again, trips),))


def shared_samples(name: str, samples: int, size: int, newton: int) -> Case:
    """Return a step of samples shared out over several blocks; ``newton`` of Newton's passes have something to do."""
    one = samples * size * FLOAT
    parts = math.ceil(size / constant("shared_samples.h", "kPartElements"))
    blocks, threads = samples * parts, constant("shared_samples.h", "kPartThreads")
    trips = math.ceil(constant("shared_samples.h", "kPartElements") / 4 / threads) + 2
    of = "<4, float, float, MoveByUnit"
    memory, again = cached(3 * one, 3 * one)

    def launch(kernel: str, from_memory: float, from_cache: float = 0.0, waits: int = trips) -> Launch:
        return Launch(kernel + of, blocks, threads, from_memory, from_cache, waits)

    passes = [launch("newton_parts", memory, again)] * newton
    passes += [launch("newton_parts", 0.0, waits=3)] * (constant("../common/ball.h", "kNewtonPasses") - newton)
    first = (launch("direction_parts", one), launch("distance_parts", 2 * one + memory / 3, again / 3))
    return Case(name, "step.cu", 4 * one, (*first, *passes, launch("write_parts", one + memory, again)))


def mix_backward(samples: int, size: int) -> Case:
    moved = 3 * samples * size * FLOAT
    threads = constant("mix.cu", "kThreads")
    searched = Launch("find_mixed", math.ceil(samples / threads), threads, 3 * samples * 8, trips=samples // threads)
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
        launches = [Launch(f"warp_rows<HeldRow<{runs}, {of}", blocks, 128, read + written, trips=3)]
    else:
        width = 4 if classes % 4 == 0 else 1
        parts = min(classes // constant("rows.h", "kLeastPart"), -(-constant("rows.h", "kEnoughBlocks") // samples))
        if samples >= constant("rows.h", "kFewRows") or width == 1:
            parts = 1
        threads = block_threads(classes // parts / width / 4)
        trips = math.ceil(classes / parts / width / threads / 4)
        if parts > 1:
            memory, again = cached(read, read)
            blocks = samples * parts
            launches = [
                Launch(f"part_sums<StreamedRow<{width}, 1, {of}", blocks, threads, read, trips=trips + 2),
                Launch(f"part_rows<StreamedRow<{width}, 2, {of}", blocks, threads, memory + written, again, trips + 2),
            ]
        else:
            resident = min(samples, MULTIPROCESSORS * (1 if threads == 512 else 2))
            memory, again = cached(read, inputs * resident * classes * FLOAT)
            row = f"block_rows<StreamedRow<{width}, 0, {of}"
            launches = [Launch(row, samples, threads, read + memory + written, again, 2 * trips + 2)]
    if mean:
        launches.append(Launch("sum_values<float>", 1, block_threads(samples), samples * FLOAT, trips=3))
    return Case(name, source, read + written, tuple(launches))


def svgd(images: int, n: int, size: int) -> Case:
    """linf balls and steps by sign, scores brought to the size of the repulsion."""
    one = images * n * size * FLOAT
    floor = 3 * one + images * size * FLOAT
    name = f"svgd_step {images}x{n}x{size}"
    tiles = math.ceil(n / 4)
    if 2 * n * size * FLOAT <= constant("svgd.cu", "kCacheBytes"):
        threads = block_threads(tiles * size / 4)
        memory, again = cached(2 * one, 2 * min(images, 2 * MULTIPROCESSORS) * n * size * FLOAT)
        trips = 2 * math.ceil(size / 4 / threads) + 6
        return Case(
            name,
            "svgd.cu",
            floor,
            (Launch("alone_on_image<true, false, 4, float, float>", images, threads, floor + memory, again, trips),),
        )
    least, most = constant("svgd.cu", "kLeastShare"), constant("svgd.cu", "kMostShare")
    wanted = math.ceil(size / math.ceil(constant("svgd.cu", "kEnoughBlocks") / images))
    share = math.ceil(min(max(wanted, least), most) / least) * least
    shares = math.ceil(size / share)
    threads = block_threads(tiles * share / 4)
    memory, again = cached(2 * one, 2 * one)
    parts = images * shares * 2 * n * n * FLOAT
    tasks = tiles * (tiles + 1) / (threads / 32)
    return Case(
        name,
        "svgd.cu",
        floor,
        (
            Launch(
                "pair_sums<4, float, float>",
                images * shares,
                threads,
                2 * one + parts,
                trips=2 + math.ceil(tasks * share / 128),
            ),
            Launch(
                "move_shares<4, float, float>",
                images * shares,
                threads,
                floor - 2 * one + memory,
                again + shares * parts,
                8 + n // 4,
            ),
        ),
    )


def cases() -> list[Case]:
    cifar, imagenet = 3 * 32 * 32, 3 * 224 * 224
    both = (4096 * cifar, 128 * cifar)
    return [
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
                6,
                "step.cu",
            )
            for n in (4096, 128)
        ),
        held_sample(
            "move_samples<2, true, 4, float, float, MoveLargest",
            "pgd_step l1 4096x3x32x32",
            4096,
            cifar,
            4,
            24,
            "step.cu",
        ),
        held_sample(
            "momentum_samples<0, true, 4, float, float, MoveBySign",
            "momentum_step linf 4096x3x32x32",
            4096,
            cifar,
            6,
            4,
            "step.cu",
        ),
        held_sample("boundary_samples<true, 4, float, float>", "bss_step 4096x3x32x32", 4096, cifar, 3, 3, "step.cu"),
        shared_samples("pgd_step l2 16x3x224x224", 16, imagenet, newton=3),
        # Two passes for the norm and the distance, three of Newton's method, one to write.
        streamed_sample(
            "move_samples<1, false, 4, float, float, MoveByUnit",
            "pgd_step l2 512x3x224x224",
            512,
            imagenet,
            (1, 3, 3, 3, 3, 3),
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
    for modifiers in re.findall(rf"\b{kind}((?:\.\w+)*) ", code):
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


def seconds(launch: Launch, code: Code) -> float:
    """Return the expected time of a launch, by the model that the page states."""
    resident = code.resident(launch.threads)
    waves = launch.blocks / (resident * MULTIPROCESSORS)
    threads = min(launch.blocks, resident * MULTIPROCESSORS) * launch.threads
    fill = min(1.0, threads * code.bytes_on_their_way / (MEMORY * TRIP))
    # A multiprocessor alone takes its share of the bandwidth and no more than twice that.
    fill = min(fill, 2 * min(launch.blocks, MULTIPROCESSORS) / MULTIPROCESSORS)
    moving = (launch.memory / MEMORY + launch.cached / CACHE) / fill
    return LAUNCH + max(moving, launch.trips * TRIP * max(1.0, math.ceil(waves) / 2))


def page(codes: Mapping[str, Mapping[str, Code]], rows_of: Sequence[Case]) -> str:
    lines = [HEAD, "| case | launches | floor us | expected us | share |", "|---|---|---|---|---|"]
    missed: list[str] = []
    details = ["", "## What the launches do", "", DETAILS]
    columns = ("case", "kernel", "blocks x threads", "registers", "blocks an SM", "waves", "loads", "stores")
    columns += ("MB memory", "MB cache", "trips", "us")
    details += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for case in rows_of:
        total = 0.0
        for launch, count in Counter(case.launches).items():
            name, code = kernel_of(launch, codes[case.source])
            resident = code.resident(launch.threads)
            took = count * seconds(launch, code)
            total += took
            waves = launch.blocks / (resident * MULTIPROCESSORS)
            cells = (
                case.name,
                f"{count if count > 1 else ''} `{name.split('<')[0]}`".strip(),
                f"{launch.blocks:,} x {launch.threads}",
                code.registers,
                resident,
                f"{waves:.2f}",
                _widths(code.loads),
                _widths(code.stores),
                f"{launch.memory / 1e6:.1f}",
                f"{launch.cached / 1e6:.1f}",
                launch.trips,
                f"{took * 1e6:.1f}",
            )
            details.append("| " + " | ".join(map(str, cells)) + " |")
        floor = case.floor / MEMORY + LAUNCH
        share = f"{floor / total:.0%}"
        lines.append(f"| {case.name} | {len(case.launches)} | {floor * 1e6:.1f} | {total * 1e6:.1f} | {share} |")
        if case.floor >= LARGE and floor / total < GOAL:
            missed.append(f"{case.name} ({share})")
    lines += ["", f"Below the goal of {GOAL:.0%} from {LARGE / 1e6:.0f} MB up: {', '.join(missed) or 'none'}."]
    return "\n".join(lines + details) + "\n"


def _widths(accesses: Mapping[int, int]) -> str:
    return ", ".join(f"{count} of {bits}" for bits, count in accesses.items()) or "none"


HEAD = f"""# What the CUDA kernels should take on an H100

**Nothing here was measured: no kernel of fastadv has run on a GPU yet.** The page is derived by
`python csrc/tools/performance.py --write` from the code that nvcc makes for sm_90 in float32, so that a first real run
(`make gpu-check`) confirms or refutes it row by row.

The model: {MULTIPROCESSORS} multiprocessors of {REGISTERS:,} registers; {MEMORY / 1e12:.1f} TB/s of device memory and
{CACHE / 1e12:.1f} of the L2 cache, of which {CACHE_BYTES / 1e6:.0f} MB hold what is read again; {LAUNCH * 1e6:.1f} us
a kernel of a CUDA graph; {TRIP * 1e6:.1f} us a trip to memory. A launch takes the longer of moving its bytes and
of its dependent trips, which two blocks of a multiprocessor overlap. Bandwidth is had in full only where the loads of
all resident threads add up to what is on its way in one trip. The floor is one launch, every input read once and every
output written once. The model knows nothing of instruction issue, of bank conflicts or of the tail of a last wave:
expect longer times, and where they are much longer one of these as the reason.
"""
DETAILS = """Loads and stores: instructions in the machine code by width in bits; those of a loop are counted once.
Waves: blocks over the blocks that fit at a time.
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
