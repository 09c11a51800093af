"""Memory that a step frees comes back without a page fault."""

import os
import platform
import subprocess
import sys

import pytest

# Takes and frees 64 MiB again and again, a size that glibc maps for each block by itself.
SCRIPT = """
import resource
from fastadv.train.runtime.heap import keep_freed_memory
print(keep_freed_memory())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(2**26)
before = faults()
for _ in range(8):
    bytearray(2**26)
print(faults() - before)
"""


def told_and_faults(**environment):
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=variables | environment, capture_output=True, text=True, check=True
    )
    told, faults = result.stdout.split()
    return told, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_is_freed_is_kept_unless_the_environment_sets_malloc():
    told, faults = told_and_faults()
    left_told, left_faults = told_and_faults(MALLOC_ARENA_MAX="4")
    assert (told, left_told) == ("True", "False")
    assert faults < 100 < left_faults
