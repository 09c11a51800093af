"""What has to be set before triton or fastadv is imported; the number of threads, before torch is."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.pop("FASTADV_BACKEND", None)

import torch

# Without a GPU, Triton's kernels run on CPU tensors, so that one session tests every backend.
os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"
