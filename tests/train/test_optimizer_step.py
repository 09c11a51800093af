"""One step of an optimizer: from pieces the gradient of the whole batch, scaled, clipped, averaged."""

import copy

import pytest
import torch
from torch import nn

from fastadv.distill import KD, TALD, Batch, CrossEntropy
from fastadv.distill.parts.optimizer_step import OptimizerStep, Weighted
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import subset
from fastadv.train.loop.evaluation import accuracy
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.networks.classifier import Classifier
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.processes import Processes


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def without_batch_statistics(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return Classifier(network, [0.3], [0.4])


def make_trainer(digits, folder, method, *, model=None, train=None, **flags):
    config = resolve(flags={"epochs": "2", "batch_size": "64", "tensorboard": False, "augmentation": "none", **flags})
    return Trainer(
        model=model or build_classifier(config.student, config, digits, seed=0),
        method=method,
        teacher=without_batch_statistics(1).eval().requires_grad_(False),
        train=subset(digits.train, 150, seed=0) if train is None else train,
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )


def optimizer_step(parameters, **options):
    options.setdefault("scaler", torch.amp.GradScaler("cpu", enabled=False))
    return OptimizerStep(torch.optim.SGD(parameters, lr=1.0), processes=Processes(), **options)


@pytest.mark.parametrize("method", [CrossEntropy, KD, lambda: TALD(steps=2, eps=0.1, weight=0.5)])
def test_pieces_give_the_step_of_the_whole_batch(digits, tmp_path, method):
    """Without batch statistics; the last batch has 22 images, the pieces of it 8, 7 and 7."""
    runs = {}
    for pieces in ("1", "3"):
        trainer = make_trainer(
            digits, tmp_path / pieces, method(), model=without_batch_statistics(0), accumulate=pieces
        )
        trainer.fit()
        runs[pieces] = trainer
    whole, cut = (list(runs[pieces].model.parameters()) for pieces in ("1", "3"))
    start = list(without_batch_statistics(0).parameters())
    for mine, other, before in zip(cut, whole, start, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6, rtol=0)
        assert (other - before).abs().max() > 1e-3


def test_a_batch_smaller_than_its_pieces_is_refused(digits, tmp_path):
    with pytest.raises(ConfigError, match="smallest batch of an epoch has 22 images, expected at least 23"):
        make_trainer(digits, tmp_path, CrossEntropy(), accumulate="23")


def test_terms_are_those_of_the_whole_batch():
    weight = nn.Parameter(torch.ones(2))
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    pieces = [
        Weighted(Batch(x[:2], torch.zeros(2), progress=0.0, seed=0), 2 / 3),
        Weighted(Batch(x[2:], torch.zeros(1), progress=0.0, seed=0), 1 / 3),
    ]

    def terms(batch):
        loss = (batch.x * weight).sum(1).mean()
        return {"loss": loss, "half": loss.detach() / 2}

    found = optimizer_step([weight]).step(pieces, terms)
    assert found["loss"].item() == pytest.approx(7.0)
    assert found["half"].item() == pytest.approx(3.5)
    assert not found["loss"].requires_grad
    torch.testing.assert_close(weight.detach(), 1 - x.mean(0))


def test_no_other_parameter_gets_a_gradient():
    mine, other = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    pieces = [Weighted(Batch(torch.ones(1, 1), torch.zeros(1), progress=0.0, seed=0), 1.0)]
    optimizer_step([mine]).step(pieces, lambda batch: {"loss": 2 * mine * other})
    assert mine.item() == -1.0
    assert other.grad is None


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_scaled_loss_gives_the_unscaled_step_and_an_overflow_none(clip_norm):
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    scaled = optimizer_step([weight], scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10), clip_norm=clip_norm)
    pieces = [Weighted(Batch(torch.ones(1, 1), torch.zeros(1), progress=0.0, seed=0), 1.0)]
    # The gradient is the weight itself, of norm 5.
    scaled.step(pieces, lambda batch: {"loss": weight.square().sum() / 2})
    left = torch.tensor([3.0, 4.0]) * (0.0 if clip_norm is None else 1 - 0.5 / 5)
    torch.testing.assert_close(weight.detach(), left, atol=1e-5, rtol=0)
    scaled.step(pieces, lambda batch: {"loss": (weight * torch.inf).sum()})
    torch.testing.assert_close(weight.detach(), left, atol=1e-5, rtol=0)
    assert scaled.state_dict()["scaler"]["scale"] == 2.0**9


def test_the_averaged_network_is_as_accurate_as_its_own_weights(digits, tmp_path):
    """Which it is not with the newest BatchNorm statistics: they are not those of the averaged weights."""
    flags = {"student": "digits_cnn", "epochs": "4", "lr": "0.2", "ema": "0.98"}
    trainer = make_trainer(digits, tmp_path, CrossEntropy(), train=digits.train, **flags)
    trainer.fit()
    own, averaged = (accuracy(network, digits.test, trainer.config) for network in (trainer.model, trainer.evaluated))
    assert own > 0.95
    assert averaged > own - 0.03
    mismatched = copy.deepcopy(trainer.evaluated)
    for mine, newest in zip(mismatched.buffers(), trainer.model.buffers(), strict=True):
        mine.copy_(newest)
    assert accuracy(mismatched, digits.test, trainer.config) < averaged - 0.05
    counters = [
        [value.item() for name, value in network.named_buffers() if name.endswith("num_batches_tracked")]
        for network in (trainer.model, trainer.evaluated)
    ]
    assert counters[0] == counters[1] == [84] * 3
    assert not any(parameter.requires_grad for parameter in trainer.evaluated.parameters())


def test_averaged_weights_are_evaluated_and_written(digits, tmp_path):
    trainer = make_trainer(digits, tmp_path, CrossEntropy(), ema="0.5")
    trainer.fit()
    written = torch.load(tmp_path / "weights.pt", weights_only=True)
    own = trainer.model.network.state_dict()
    assert trainer.evaluated is not trainer.model
    assert all(torch.equal(value, written[name]) for name, value in trainer.evaluated.network.state_dict().items())
    assert any(not torch.equal(value, written[name]) for name, value in own.items())
