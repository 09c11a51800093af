import pytest

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
