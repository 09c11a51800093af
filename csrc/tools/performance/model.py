"""The model of an H100: what is launched, the machine code it runs, and the seconds that follow from both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Program:
    """Kernels that others launch for the same result, of which less is known than of ours.

    Attributes:
        moved: bytes of each kernel's inputs and outputs.
        again: of each kernel that loops over its rows, the bytes that it reads after the first time, and those of a
            row.
        sums: how many sums wait for one another.
    """

    launches: int
    moved: float
    again: tuple[tuple[float, float], ...] = ()
    sums: int = 0


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


def cached(rereads: float, working_set: float) -> tuple[float, float]:
    """Split bytes that are read again into those from memory and those from the cache, by what is in use at a time."""
    return (0.0, rereads) if working_set <= CACHE_BYTES else (rereads, 0.0)


def at_least(program: Program, floor: float) -> float:
    """Return the seconds that a program cannot go below, which has to move ``floor`` bytes.

    All bandwidth is had at once. What it stores between kernels stays in the cache where the floor's bytes fit there,
    and what it reads again with the multiprocessor, or in the cache, where a row for each of them fits.
    """
    seconds = floor / MEMORY + max(0.0, program.moved - floor) / (CACHE if floor <= CACHE_BYTES else MEMORY)
    for rereads, row in program.again:
        if row > SHARED:
            memory, near = cached(rereads, MULTIPROCESSORS * row)
            seconds += memory / MEMORY + near / CACHE
    return program.launches * LAUNCH + max(seconds, program.launches * TRIP + program.sums * SUM)
