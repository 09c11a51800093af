import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from fastadv.train.config.train_config import Config
from fastadv.train.loop.trainer import learning_rate


def test_the_step_schedule_decays_at_each_milestone():
    config = Config(schedule="step", lr=0.05, milestones=(150, 180, 210), lr_decay=0.1)
    rates = [learning_rate(config, epoch=epoch, progress=0.5) for epoch in (0, 149, 150, 180, 239)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-4, 5e-5])


def test_the_cosine_schedule_falls_from_lr_to_zero():
    config = Config(schedule="cosine", lr=0.2, milestones=(1,))
    rates = [learning_rate(config, epoch=2, progress=progress) for progress in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([0.2, 0.1, 0.0])


def test_the_one_cycle_schedule_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = OneCycleLR(optimizer, max_lr=0.2, total_steps=1001, cycle_momentum=False)
    config, rates = Config(schedule="one-cycle", lr=0.2), []
    for _ in range(1000):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    own = [learning_rate(config, epoch=0, progress=step / 1000) for step in range(1000)]
    # Its peak is one step earlier, and its end at a 250,000th of it.
    assert own == pytest.approx(rates, abs=1e-3)
    assert [own[0], own[300]] == pytest.approx([0.008, 0.2])
