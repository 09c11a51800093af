"""What may change how a student is trained and not how good it is: one short training with each, and one without."""

import contextlib
import json

import numpy as np
import pytest
import torch

import fastadv
from fastadv.attacks.model.freeze import Frozen
from fastadv.distill import CrossEntropy
from fastadv.ops.dispatch import serving
from fastadv.train.cli import main
from fastadv.train.config.train_config import resolve
from fastadv.train.data.splits import Stored, from_stored
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer

# In points; one image of the test split is 0.2.
ALLOWED = 2.0
FLAGS = ["--methods=kd", "--seeds=0", "--epochs=24", "--student-samples=600", "--augmentation=none", "--no-tensorboard"]
FLAGS += ["--eval-epochs=24", "--eval-steps=1", "--pgd-samples=20"]
HARMLESS = {
    "bfloat16": "--precision=bfloat16",
    "channels last": "--channels-last",
    "compiled": "--compile",
    "frozen teacher": "--freeze-teacher",
    "frozen teacher in bfloat16": "--freeze-teacher --teacher-precision=bfloat16",
    "micro-batches": "--accumulate=3",
    "step schedule, clipped": "--schedule=step --milestones=12,18 --clip-norm=1",
    "one cycle, averaged": "--schedule=one-cycle --ema=0.9",
    "shifted images, other batches of evaluation": "--augmentation=shift1 --eval-batch-size=77",
}

ROBUST = ["--methods=rslad", "--option=rslad.eps=0.1", "--seeds=0", "--epochs=6", "--student-samples=300"]
ROBUST += ["--batch-size=30", "--lr=0.1", "--augmentation=none", "--eval-steps=5", "--no-tensorboard"]
ROBUST_TEACHER = ["--teacher-method=pgd-at", "--teacher-epochs=3", "--option=pgd-at.eps=0.1", "--option=pgd-at.steps=3"]
# The backend, and how the student is attacked.
HARMLESS_TO_ROBUST = [("reference", "eval"), (None, "frozen"), (None, "frozen-bfloat16")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of the run without any of them."""
    folder = tmp_path_factory.mktemp("accuracy") / "plain"
    assert main(["train", "--run-dir", str(folder), "--teacher-epochs=8", *FLAGS]) == 0
    return folder


@pytest.fixture(scope="module")
def plain_robust(tmp_path_factory):
    """The folder of a run on attacked images, without any of them."""
    folder = tmp_path_factory.mktemp("accuracy") / "robust"
    assert main(["train", "--run-dir", str(folder), *ROBUST, *ROBUST_TEACHER]) == 0
    return folder


def accuracy(folder, kind="clean"):
    (student,) = folder.glob("*-seed0")
    return 100 * json.loads((student / "result.json").read_text())[kind]


def same_weights(*folders):
    one, other = (torch.load(next(folder.glob("*-seed0")) / "weights.pt") for folder in folders)
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_student_has_learned(plain):
    assert accuracy(plain) > 85


@pytest.mark.parametrize("flags", HARMLESS.values(), ids=HARMLESS)
def test_a_student_is_as_good_with_it(flags, plain, tmp_path):
    teacher = f"--teacher-checkpoint={plain / 'teacher' / 'weights.pt'}"
    assert main(["train", "--run-dir", str(tmp_path / "run"), teacher, *FLAGS, *flags.split()]) == 0
    assert abs(accuracy(tmp_path / "run") - accuracy(plain)) < ALLOWED
    # If only in their last bits: else the flag may have done nothing.
    assert not same_weights(tmp_path / "run", plain)


def test_a_robust_student_has_learned(plain_robust):
    assert accuracy(plain_robust) > 85
    assert accuracy(plain_robust, "pgd") > 55


@pytest.mark.parametrize(("backend", "mode"), HARMLESS_TO_ROBUST)
def test_a_robust_student_is_as_good_with_it(backend, mode, plain_robust, tmp_path, monkeypatch):
    refreshed = []
    monkeypatch.setattr(Frozen, "refresh", lambda copy, refresh=Frozen.refresh: refreshed.append(copy) or refresh(copy))
    teacher = f"--teacher-checkpoint={plain_robust / 'teacher' / 'weights.pt'}"
    arguments = ["train", "--run-dir", str(tmp_path / "run"), teacher, *ROBUST, f"--option=rslad.attack_mode={mode}"]
    with fastadv.use_backend(backend) if backend else contextlib.nullcontext():
        assert main(arguments) == 0
    for kind in ("clean", "pgd"):
        assert abs(accuracy(tmp_path / "run", kind) - accuracy(plain_robust, kind)) < ALLOWED
    # Before each of 60 steps, and as they are made.
    assert len(refreshed) >= 60 if mode.startswith("frozen") else not refreshed
    # A copy in float32 may well give the signs of the student itself, and so the same images.
    if mode != "frozen" and serving("cpu") != backend:
        assert not same_weights(tmp_path / "run", plain_robust)


def stripes(count, seed):
    """Images [count, 3, 16, 16] of stripes across, stripes down, or squares of both, at any phase and in any colour."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    row, column = (np.arange(16) + random.integers(0, 4, (2, count, 1))) // 2 % 2
    across, down = np.repeat(row[:, :, None], 16, 2), np.repeat(column[:, None, :], 16, 1)
    pattern = np.select([labels[:, None, None] == 0, labels[:, None, None] == 1], [across, down], across ^ down)
    colour = random.integers(80, 200, (count, 3, 1, 1))
    return (pattern[:, None] * colour + random.integers(0, 50, (count, 3, 16, 16))).astype(np.uint8), labels


@pytest.mark.parametrize(
    "changed",
    [
        {"augmentation": "none"},
        {"augmentation": "shift1"},
        {"augmentation": "crop4_flip"},
        {"label_smoothing": "0.1"},
        {"mixup": "0.2"},
    ],
    ids=str,
)
def test_changed_images_and_labels_are_learned_as_well(changed, tmp_path):
    data = from_stored(Stored({"train": stripes(300, 0), "test": stripes(300, 1)}, ("across", "down", "squares")))
    flags = {"student": "resnet8", "epochs": "6", "batch_size": "50", "eval_epochs": "6", "eval_steps": "1"}
    config = resolve(flags={**flags, "tensorboard": False, "augmentation": "none", **changed})
    student = build_classifier("resnet8", config, data, seed=0)
    training = {"train": data.train, "test": data.test, "config": config, "seed": 0}
    trainer = Trainer(model=student, method=CrossEntropy(), teacher=None, folder=tmp_path, label="plain", **training)
    assert trainer.fit()["clean"] > 0.98
