"""Prints the words that the Triton Philox gives for each ``SEED BLOCK SAMPLE_ID``, signed decimals of 64 bits."""

import json
import sys

import torch
import triton
import triton.language as tl

from fastadv.kernels.philox import interleave, philox


@triton.jit
def write_words(counter_ptr, out_ptr):
    seed, block, sample_id = tl.load(counter_ptr), tl.load(counter_ptr + 1), tl.load(counter_ptr + 2)
    a, b, c, d = philox(seed, block + tl.zeros([1], tl.int64), sample_id)
    tl.store(out_ptr + tl.arange(0, 4), interleave(a, b, c, d).to(tl.int64))


for counter in torch.tensor([int(argument) for argument in sys.argv[1:]]).view(-1, 3):
    words = torch.zeros(4, dtype=torch.int64)
    write_words[(1,)](counter, words)
    print(json.dumps({"words": words.tolist()}))
