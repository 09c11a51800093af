"""What has to be set before torch, triton or fastadv is imported."""

import os

# Triton's kernels run on CPU tensors, so that one session tests every backend.
os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.pop("FASTADV_BACKEND", None)
