"""A training step reads nothing back from the device."""

import pytest
import torch

from fastadv.attacks import captured
from fastadv.distill import KD, TALD, CrossEntropy, Method
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from tests.attacks.host_reads import HostReads
from tests.attacks.recorded import record_on_the_cpu

METHODS = {
    "ce": CrossEntropy,
    "kd": KD,
    "tald": lambda: TALD(steps=2, eps=0.1),
    "tald released": lambda: TALD(variant="released", bounds=None, images=4),
}


class Peeking(Method):
    needs_teacher = False

    def forward(self, student, teacher, batch):
        loss = student(batch.x).square().mean()
        return {"loss": loss, "seen": torch.tensor(loss.item())}


def reads_in_a_step(folder, method, **flags):
    """On the meta device there is no value to read: an item(), a branch on a tensor or a boolean index raises."""
    config = resolve(flags={"device": "meta", "augmentation": "crop4_flip", "methods": "ce", **flags})
    digits = datasets.load("digits", device="meta")
    trainer = Trainer(
        model=build_classifier(config.student, config, digits, seed=0),
        method=method,
        teacher=build_classifier(config.teacher, config, digits, seed=1).eval().requires_grad_(False),
        train=digits.train,
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )
    plan = trainer.batches.plan(seed=0, epoch=0)
    with HostReads() as probe:
        for index in range(2):
            trainer._train_step(plan, 0, index)
    # A value of the meta device would have raised: those that were read are the host's, such as AveragedModel's count.
    return [name for name in probe.found if name != "aten._local_scalar_dense.default"]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_nothing(tmp_path, method):
    assert reads_in_a_step(tmp_path, METHODS[method]()) == []


def test_nor_do_pieces_averages_and_clipping(tmp_path):
    options = {"accumulate": "3", "ema": "0.9", "clip_norm": "1.0", "channels_last": True}
    assert reads_in_a_step(tmp_path, KD(), **options) == []


def test_nor_does_a_captured_attack(tmp_path, monkeypatch):
    graphs = record_on_the_cpu(monkeypatch)
    monkeypatch.setattr(captured, "_autocast", lambda device_type: None)  # there is none on the meta device
    assert reads_in_a_step(tmp_path, TALD(steps=2, eps=0.1), capture=True) == []
    assert len(graphs) == 1


def test_a_step_that_reads_is_found(tmp_path):
    with pytest.raises(RuntimeError, match="meta"):
        reads_in_a_step(tmp_path, Peeking())
