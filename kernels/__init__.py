"""The ops in Triton, for CUDA and ROCm devices: a launcher for every op, in the file of its family.

A launcher takes the arguments of the op's schema and relies on what the public functions of :mod:`fastadv.ops` have
checked and made dense. The kernels also run on CPU tensors where TRITON_INTERPRET=1 was set before triton was imported.
"""
