"""Side-by-side measurements of fastadv against what people use now: ``python -m benchmarks``."""

import os

# Before torch is imported: the profiler, which counts memory, announces each of its starts and stops on stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "9")
