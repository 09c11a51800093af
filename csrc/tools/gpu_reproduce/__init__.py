"""CIFAR-100 trained on one GPU, in calls of nine minutes that go on where the last one stopped: ``make gpu-reproduce``.

First KD and TALD (projected, without an attack, from noise), resnet56 to resnet20, for as many epochs as fit; then the
recipe speedrun-cifar100, PGD adversarial training of resnet18 with the accuracy of the FastAT benchmark as its goal,
and where time is left AutoAttack, on 200 images and then on 1,000. All of it is `fastadv train`. A training that fails
is tried again without compiling, then without CUDA graphs too, and the reasons tell of it. Not run on a GPU yet:
``--rehearse`` makes the whole call at tiny sizes on the CPU, and its numbers mean nothing.

The Python that runs it has PyTorch for CUDA, Triton, and what fastadv[train] asks for; no network is needed. The
compiled libraries are found or made as by ``make gpu-check``. What a machine lacks is carried in a folder that git
ignores, such as build/carried:

- packages, by ``pip install --target build/carried/site pydantic tomlkit`` for its version of Python; PYTHONPATH names
  the folder;
- CIFAR-100 in its official layout of pickles, which is 184 MB, or in the parts that ``python -m gpu_reproduce.pack``
  makes of it, 105 MiB in all: --data-dir;
- the public cifar100_resnet56.pth: --checkpoints.

Results come into one folder as they are there, at most eight files: facts.json, log.txt, parts.jsonl, plan.jsonl
(what the time was given to), a NAME.tar for each training, results.json and summary.txt. ``--resume DIR``, such a
folder of an earlier call, goes on from its NAME.tar. These hold what a call needs of a training and no file larger than
--largest: a resnet18 leaves its checkpoints of 130 MB and its weights behind, and goes on on the same machine alone,
from --runs; elsewhere it is trained anew, unless AutoAttack has its result.
"""
