"""Every default that is a published constant, in one table: a slip of one is a red line here."""

import pytest

from fastadv.distill.parts import memory
from fastadv.train.config.methods import METHODS, options_of

# RepDistiller: the code of Tian, Krishnan, Isola, "Contrastive representation distillation", ICLR 2020.
REP_DISTILLER = {
    "kd": {"temperature": 4.0, "alpha": 0.9},
    "fitnet": {"beta": 100.0, "gamma": 1.0, "alpha": 0.0, "layer": 2},
    "at": {"beta": 1000.0, "gamma": 1.0, "alpha": 0.0},
    "sp": {"beta": 3000.0, "gamma": 1.0, "alpha": 0.0},
    "vid": {"beta": 1.0, "gamma": 1.0, "alpha": 0.0},
    "ft": {"beta": 200.0, "gamma": 1.0, "alpha": 0.0, "ratio": 0.5, "warm_up_epochs": 30},
    "rkd": {"beta": 1.0, "gamma": 1.0, "alpha": 0.0, "distance_weight": 25.0, "angle_weight": 50.0},
    "crd": {
        **{"beta": 0.8, "gamma": 1.0, "alpha": 0.0, "negatives": 16384, "width": 128},
        **{"contrast_temperature": 0.07, "momentum": 0.5},
    },
}

# The attack of the robust methods: 10 steps of 2/255 in the linf ball of 8/255.
ATTACK = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}

PUBLISHED = {
    **REP_DISTILLER,
    # Zhao et al., CVPR 2022, CIFAR-100; 20 of 240 epochs of warm-up.
    "dkd": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "gamma": 1.0, "ramp": 20 / 240},
    # Oki, Abe, Miyao, Kurita, IJCNN 2020.
    "triplet": {"temperature": 1.0, "alpha": 1.0, "beta": 2.0, "gamma": 1.0, "margin": 5.0},
    # The published code of TALD: the weight, and the finite difference.
    "tald": {"weight": 0.01, "xi": 10.0, "clean": True},
    # Heo, Lee, Yun, Choi, AAAI 2019, and its published code.
    "bss": {
        **{"temperature": 3.0, "kd_start": 4.0, "kd_end": 1.0, "bss_weight": 2.0, "bss_end": 0.75},
        **{"attack_size": 64, "steps": 10},
    },
    "pgd-at": ATTACK,
    # Zhang et al., ICML 2019.
    "trades": {**ATTACK, "beta": 6.0},
    # Goldblum et al., AAAI 2020.
    "ard": {**ATTACK, "temperature": 30.0, "alpha": 1.0},
    # Zi et al., ICCV 2021: 5/6 and 1/6.
    "rslad": {**ATTACK, "adversarial_weight": 5 / 6},
    # Huang et al., CVPR 2023.
    "adaad": {**ATTACK, "alpha": 1.0},
    # Zhu et al., ICLR 2022: from epoch 60 of 200 on; IAD-II from 40.
    "iad": {**ATTACK, "temperature": 1.0, "beta": 0.1, "begin": 0.3},
    "iad-ii": {**ATTACK, "temperature": 1.0, "beta": 0.1, "begin": 0.2, "teacher_weight": 0.5},
    "ada-iad": {**ATTACK, "temperature": 30.0, "beta": 0.1, "begin": 0.3},
    # Its paper, TMLR 2026.
    "saad": {**ATTACK, "alpha": 20.0, "entropy_scale": 5.0, "inner_scale": 1.0},
    # Lee, Cho, Kim, ICLR 2025: CIFAR-100 in the released scripts.
    "igdm": {"alpha": 20.0, "ramp": "linear", "beta": 1.0, "gamma": 1.0},
    # Fang et al., 2019: 5 steps of the student for one of the generator, whose Adam has 1e-3.
    "data-free": {"latent": 256, "width": 64, "adversary_every": 5, "adversary_lr": 1e-3},
}


@pytest.mark.parametrize(
    ("method", "option"), [(method, option) for method, constants in PUBLISHED.items() for option in constants]
)
def test_a_default_is_the_published_constant(method, option):
    default, published = options_of(METHODS[method].kind)[option].default, PUBLISHED[method][option]
    assert default == (published if isinstance(published, str) else pytest.approx(published, rel=1e-12))


def test_the_guard_of_crds_quotients_is_the_published_one():
    assert memory._GUARD == 1e-7
