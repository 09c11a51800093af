# make demo           the whole job on a small real dataset: teacher, particles, students, a report
# make test           formatting, lint, types and the test suite
# make bench          fused against what people use now, on this machine: results, pictures and pages; BENCH=--all for
#                     everything, half an hour or more; BENCH='--all --resume' goes on after an interruption
# make bench-pages    the pages and pictures again, from the committed results
# make bench-slower   name what is slower than in the committed results of this machine by more than the noise
# make bench-compare  BASE=REVISION: this working tree against another commit, call by call in turn
# make bench-attacks  whole attacks against torchattacks' on a CIFAR-100 resnet56, about five minutes on two idle cores:
#                     CHECKPOINT=FILE DATA_DIR=DIR, and OUTPUT=NAME to write NAME.md and NAME.json
# make bench-training the trainer's step against plain loops, about six minutes on two idle cores: CHECKPOINTS=DIR for
#                     the public resnet56 as teacher, OUTPUT=NAME to write NAME.md and NAME.json
# make sanitize       the C++ ops' tests under AddressSanitizer and UndefinedBehaviorSanitizer, about two minutes
# make cuda-compile   registers, memory and spills of each CUDA kernel, into csrc/cuda/RESOURCES.md; needs nvcc, no GPU
# make cuda-expect    what each should take on an H100, and torch.compile's and Liger's, into csrc/cuda/PERFORMANCE.md;
#                     needs nvcc, no GPU
# Each makes .venv first, with everything in it. TORCH chooses another PyTorch: make demo TORCH='torch>=2.10'
#
# make gpu-libraries  the compiled libraries for a GPU of ARCH (9.0), to be carried to a machine with one; needs nvcc
# make gpu-check      everything a machine with an NVIDIA GPU can tell, in one call of DEADLINE (540) seconds, into the
#                     folder OUT; no .venv, no network: PYTHON has a CUDA PyTorch. PARTS=ops,graphs chooses some of its
#                     parts: facts, ops, graphs, benchmarks, triton, sanitizer, compiled, alone. Not run on a GPU yet.
# make gpu-reproduce  CIFAR-100 trained there, in as many such calls as it takes: DATA_DIR=DIR CHECKPOINTS=DIR, the rest
#                     as above; RESUME=DIR goes on from the results of an earlier call, SEEDS=0,1,2 trains more of each.
#                     PARTS: facts, students (KD and TALD), speedrun. REHEARSE=1 makes it at tiny sizes on a CPU, with
#                     neither data nor .venv. Not run on a GPU yet. csrc/README.md says what to carry, and how.

PYTHON ?= python3
TORCH ?= torch==2.13.0
PEERS := torchattacks==3.5.1 pyautoattack==0.2.0 adv-lib==0.2.8 foolbox==3.3.4 pytorch-metric-learning==2.9.0
BIN := .venv/bin
# Without compiling to byte code what will never be imported, which takes a minute.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile
INSTALLED := .venv/.installed
SOURCES := $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/ops/*) fastadv/ops/schemas.py pyproject.toml setup.py

.PHONY: demo test pytest bench bench-pages bench-slower bench-compare bench-attacks bench-training \
	lint style types format sanitize cuda-compile cuda-expect gpu-libraries gpu-check gpu-reproduce clean

demo: $(INSTALLED)
	$(BIN)/fastadv train

# mypy works on one core; beside the tests, none waits for it.
test: style
	@$(MAKE) --no-print-directory --jobs 2 types pytest

pytest: $(INSTALLED)
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

lint: style types

style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(BENCH)
	$(BIN)/python -m benchmarks.pages.page

bench-pages: $(INSTALLED)
	$(BIN)/python -m benchmarks.pages.page
	$(BIN)/python -m benchmarks.pages.trainer_table

bench-slower: $(INSTALLED)
	$(BIN)/python -m benchmarks --against committed $(BENCH)

bench-compare: $(INSTALLED)
	$(BIN)/python -m benchmarks.studies.compare_commits "$(BASE)" $(BENCH)

bench-attacks: $(INSTALLED)
	$(BIN)/python -m benchmarks.studies.attack_loops --checkpoint "$(CHECKPOINT)" --data-dir "$(DATA_DIR)" \
		$(if $(OUTPUT),--output "$(OUTPUT)")

bench-training: $(INSTALLED)
	$(BIN)/python -m benchmarks.studies.training_step $(if $(CHECKPOINTS),--checkpoints "$(CHECKPOINTS)") \
		$(if $(OUTPUT),--output "$(OUTPUT)")

sanitize: $(INSTALLED)
	$(BIN)/python csrc/tools/sanitize.py

cuda-compile: $(INSTALLED)
	$(BIN)/python csrc/tools/resources.py --write

cuda-expect: $(INSTALLED)
	PYTHONPATH=csrc/tools $(BIN)/python -m performance --write

gpu-libraries: $(INSTALLED)
	USE_CUDA=1 TORCH_CUDA_ARCH_LIST=$(or $(ARCH),9.0) $(BIN)/python setup.py build_ext --inplace

# What PYTHONPATH holds already may be packages that were carried along.
gpu-check gpu-reproduce: export PYTHONPATH := csrc/tools:$(PYTHONPATH)

# exec: a signal to the shell of a recipe is Python's.
gpu-check:
	exec $(PYTHON) -m gpu_check --parts "$(PARTS)" --deadline $(or $(DEADLINE),540) $(if $(OUT),--out "$(OUT)")

gpu-reproduce:
	exec $(PYTHON) -m gpu_reproduce --parts "$(PARTS)" --deadline $(or $(DEADLINE),540) $(if $(OUT),--out "$(OUT)") \
		$(if $(REHEARSE),--rehearse) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") \
		$(if $(CHECKPOINTS),--checkpoints "$(CHECKPOINTS)") $(if $(RESUME),--resume "$(RESUME)") \
		$(if $(SEEDS),--seeds "$(SEEDS)") $(if $(FLAGS),--flags "$(FLAGS)")

# PyTorch comes first and is kept by the second line, which without build isolation compiles against it. The libraries
# that tests and benchmark compare with come last and alone: torchvision, which two of them name, would bring its own.
$(INSTALLED): $(SOURCES)
	$(PYTHON) -m venv .venv
	$(INSTALL) "$(TORCH)" numpy ninja "setuptools>=77"
	$(INSTALL) --no-build-isolation --editable ".[dev]"
	$(INSTALL) --no-deps $(PEERS)
	@$(BIN)/fastadv doctor
	@touch $@

clean:
	rm -rf .venv build *.egg-info fastadv/_build.json fastadv/*.so
