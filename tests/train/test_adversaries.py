"""DataFree and AIKD under the trainer: without a training image, and from a checkpoint to the same weights."""

import pytest
import torch

from fastadv.distill import AIKD, DataFree
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import subset
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime.metrics import read_metrics

METHODS = {
    "data-free": lambda: DataFree(latent=8, width=4, adversary_every=2, activation_in_generator=True),
    "ai-kd": lambda: AIKD(adversary_lr=1e-2),
}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


class Unreadable:
    """A split that can be counted and nothing else."""

    def __len__(self):
        return 120

    def __getattr__(self, name):
        raise AssertionError(f"{name} of the training images was read")


def make_trainer(digits, folder, method, *, train=None, **flags):
    config = resolve(flags={"epochs": "3", "batch_size": "40", "tensorboard": False, "log_steps": "3", **flags})
    return Trainer(
        model=build_classifier("digits_small", config, digits, seed=0),
        method=method,
        teacher=build_classifier("digits_cnn", config, digits, seed=1).eval().requires_grad_(False),
        train=subset(digits.train, 120, seed=0) if train is None else train,
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )


def test_data_free_reads_no_training_image(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, METHODS["data-free"](), train=Unreadable())
    weights = [parameter.clone() for parameter in (*trainer.model.parameters(), *trainer.method.parameters())]
    assert trainer.fit()["steps"] == 9
    trained = (*trainer.model.parameters(), *trainer.method.parameters())
    moved = [not torch.equal(before, after) for before, after in zip(weights, trained, strict=True)]
    assert all(moved), "student, connectors and generator learn"
    (*_, last) = read_metrics(tmp_path, "train")
    assert {"discrepancy", "interpolation", "activation", "adversary_loss", "adversary_discrepancy"} <= last.keys()
    with pytest.raises(AssertionError, match="of the training images was read"):
        make_trainer(digits, tmp_path / "aikd", METHODS["ai-kd"](), train=Unreadable())


def test_the_discriminator_learns_from_the_students_own_forward(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, METHODS["ai-kd"](), max_steps="5")
    rows = []
    trainer.model.register_forward_hook(lambda model, given, _: rows.append(len(given[0])) if model.training else None)
    trainer.fit()
    assert rows == [40] * 5


class Stopped(Exception):
    pass


# An epoch has 3 steps: in the middle of one, and at its end.
@pytest.mark.parametrize("stop", [3, 4])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_continues_from_a_checkpoint_bit_for_bit(digits, tmp_path, monkeypatch, name, stop):
    whole = make_trainer(digits, tmp_path / "whole", METHODS[name]())
    whole.fit()
    with monkeypatch.context() as patch:
        save = Trainer._save

        def save_and_stop(self, log):
            save(self, log)
            if self.step == stop:
                raise Stopped

        patch.setattr(Trainer, "_save", save_and_stop)
        with pytest.raises(Stopped):
            make_trainer(digits, tmp_path / "cut", METHODS[name](), checkpoint_steps="1").fit()
    resumed = make_trainer(digits, tmp_path / "cut", METHODS[name]())
    resumed.fit()
    for tensor, value in whole._tensors().items():
        assert torch.equal(resumed._tensors()[tensor], value), tensor
