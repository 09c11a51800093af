import pytest

from fastadv.train.loop.schedule import cosine_lr, step_lr


def test_the_step_schedule_decays_at_each_milestone():
    rates = [step_lr(epoch, lr=0.05, milestones=(150, 180, 210), decay=0.1) for epoch in (0, 149, 150, 180, 239)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-4, 5e-5])


def test_the_cosine_schedule_falls_from_lr_to_zero():
    assert [cosine_lr(progress, lr=0.2) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.1, 0.0])
