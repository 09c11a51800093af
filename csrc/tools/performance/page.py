"""The page, csrc/cuda/PERFORMANCE.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from performance.cases import CUDA, Case
from performance.machine_code import kernel_of
from performance.model import (
    CACHE,
    CACHE_BYTES,
    EXCHANGE,
    GROUP,
    GROUPS,
    LAUNCH,
    MEMORY,
    MULTIPROCESSORS,
    ON_CHIP,
    OTHERS,
    REGISTERS,
    SUM,
    TRIP,
    Code,
    Program,
    at_least,
    expected,
)

PAGE = CUDA / "PERFORMANCE.md"
# The share of the floor that a case which moves so many bytes is meant to reach.
GOAL, LARGE = 0.85, 64e6
RIVAL_NAMES = ("torch.compile", "Liger")
# Times as close as this are the same to the model.
TIE = 0.01
COLUMNS = ("case", "kernel", "blocks x threads", "registers", "blocks an SM", "waves", "loads", "stores", "MB memory")
COLUMNS += ("MB cache", "trips", "exchanges", "sums", "us")


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


def page(
    codes: Mapping[str, Mapping[str, Code]], cases: Sequence[Case], rivals: Mapping[str, Mapping[str, Program]]
) -> str:
    """Return the page of ``cases``: ``codes`` are the kernels of each source, ``rivals`` each case's by name."""
    parts = (HEAD, *_beside_the_floor(codes, cases), RIVALS, *_beside_rivals(codes, cases, rivals))
    parts += (DETAILS, _table(COLUMNS, (row for case in cases for row in _launches(case, codes[case.source]))))
    return "\n\n".join(parts) + "\n"


def seconds(case: Case, codes: Mapping[str, Mapping[str, Code]]) -> float:
    """Return the expected time of all launches of a case."""
    return sum(expected(launch, kernel_of(launch, codes[case.source])[1]).seconds for launch in case.launches)


def _beside_the_floor(codes: Mapping[str, Mapping[str, Code]], cases: Sequence[Case]) -> Iterator[str]:
    rows, missed = [], {True: [], False: []}  # type: ignore[var-annotated]
    for case in cases:
        took, floor = seconds(case, codes), max(case.floor / MEMORY, TRIP) + LAUNCH
        share = f"{floor / took:.0%}"
        rows.append((case.name, len(case.launches), _us(floor), _us(took), share))
        if round(floor / took, 2) < GOAL:
            missed[case.floor >= LARGE].append(f"- {case.name} ({share}): {reason(case, codes[case.source])}")
    yield _table(("case", "launches", "floor us", "expected us", "share"), rows)
    yield _listed(f"Below the goal of {GOAL:.0%} from {LARGE / 1e6:.0f} MB up", missed[True])
    yield _listed("Smaller cases so far from their floor, and why", missed[False])


def _beside_rivals(
    codes: Mapping[str, Mapping[str, Code]], cases: Sequence[Case], rivals: Mapping[str, Mapping[str, Program]]
) -> Iterator[str]:
    rows, slower = [], []
    for case in cases:
        took = seconds(case, codes)
        row = [case.name, _us(took)]
        for name in RIVAL_NAMES:
            program = rivals[case.name].get(name)
            if program is None:
                row += ["", "", ""]
                continue
            least = at_least(program, case.floor)
            row += [str(program.launches), f"{program.moved / 1e6:.1f}", _us(least)]
            if took > (1 + TIE) * least:
                slower.append(f"- {case.name}: {_us(took)} us, {name} {_us(least)}")
        rows.append(row)
    each = (heading for name in RIVAL_NAMES for heading in (f"{name}: kernels", "MB", "at least us"))
    yield _table(("case", "expected us", *each), rows)
    yield _listed(f"Expected to be slower than the least of these by more than {TIE:.0%}", slower)


def _launches(case: Case, codes: Mapping[str, Code]) -> Iterator[tuple[object, ...]]:
    for launch, count in Counter(case.launches).items():
        name, code = kernel_of(launch, codes)
        yield (
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
            _us(count * expected(launch, code).seconds),
        )


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _listed(what: str, lines: Sequence[str]) -> str:
    return "\n".join((f"{what}:\n", *lines)) if lines else f"{what}: none."


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def _widths(accesses: Mapping[int, int]) -> str:
    return ", ".join(f"{count} of {bits}" for bits, count in accesses.items()) or "none"


HEAD = f"""# What the CUDA kernels should take on an H100

**Nothing here was measured: no kernel of fastadv has run on a GPU yet.** The page is derived by
`make cuda-expect` from the code that nvcc makes for sm_90 in float32, so that a first real run (`make gpu-check`)
confirms or refutes it row by row.

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
cache."""
RIVALS = f"""## Beside torch.compile and Liger

What Inductor of PyTorch {torch.__version__} plans for the published formula (benchmarks/opponents) on this GPU, and
Liger's kernels behind PyTorch's softmaxes, forward and backward, by the same model at its most favourable: every kernel
has all bandwidth at once; what lies between two stays in the cache where the floor's bytes fit there; what a loop reads
again is free where a row fits into a multiprocessor, and comes from the cache where a row for each of them fits; a call
of a library (a sort, a matrix product) is one kernel. Value and gradient are one graph, as in a loop that asks for
both, but for "mean", where autograd asks for the gradient. MB: what all kernels read and write, each of its arrays
once. Equal times are those of one pass on either side."""
DETAILS = """## What the launches do

Loads and stores: instructions in the machine code by width in bits; those of a loop are counted once. Waves: blocks
over the blocks that fit at a time. "By": blocks of a cluster."""
