"""Everything that a machine with an NVIDIA GPU can tell about fastadv, in one call of nine minutes: ``make gpu-check``.

The Python that runs it has PyTorch for CUDA, Triton, pytest, hypothesis and numpy; pytest-xdist runs the tests in
several processes and pytest-timeout ends those that hang; the rows of training steps, which come last, need pydantic
and tomlkit too. Nothing is installed and no network is needed. The libraries
fastadv/_cuda.so and _cpu.so and the record _build.json are built beforehand, for that GPU, by ``make gpu-libraries``;
where that of CUDA does not serve, they are built in the call, at the cost of the rest, with nvcc from the PATH,
CUDA_HOME or /usr/local/cuda; without it what is of Triton runs.
"""
