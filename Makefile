# make demo           the whole job on a small real dataset: teacher, particles, students, a report
# make test           formatting, lint, types and the test suite
# make bench          fused against eager and torch.compile on this machine
# make sanitize       the C++ ops' tests under AddressSanitizer and UndefinedBehaviorSanitizer, about two minutes
# make cuda-compile   what each CUDA kernel takes, into csrc/cuda/RESOURCES.md; needs nvcc, no GPU
# Each makes .venv first, with everything in it. TORCH chooses another PyTorch: make demo TORCH='torch>=2.10'
#
# make gpu-check      on a machine with an NVIDIA GPU, without .venv and network: PYTHON has a CUDA PyTorch, pytest and
#                     setuptools, and nvcc is on the PATH

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := $(wildcard csrc/common/* csrc/cpu/* csrc/cuda/*) fastadv/ops/schemas.py pyproject.toml setup.py

.PHONY: demo test bench lint format sanitize cuda-compile gpu-check clean

demo: $(INSTALLED)
	$(BIN)/fastadv train

test: lint
	$(BIN)/python -m pytest -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

sanitize: $(INSTALLED)
	$(BIN)/python csrc/cpu/sanitize.py

cuda-compile: $(INSTALLED)
	$(BIN)/python csrc/cuda/resources.py --write

gpu-check: GPU = $(shell $(PYTHON) -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))')
gpu-check:
	USE_CUDA=1 TORCH_CUDA_ARCH_LIST=native $(PYTHON) setup.py build_ext --inplace
	$(PYTHON) -m pytest -q tests/cuda tests/ops
	$(PYTHON) -m benchmarks --output benchmarks/results/$(GPU).json

# PyTorch comes first and is kept by the second line, which without build isolation compiles against it.
$(INSTALLED): $(SOURCES)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)" numpy ninja "setuptools>=77"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	@$(BIN)/fastadv doctor
	@touch $@

clean:
	rm -rf .venv build *.egg-info fastadv/_build.json fastadv/*.so
