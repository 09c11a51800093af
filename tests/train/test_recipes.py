"""The packaged recipes: each can be read, and its methods built."""

import pytest

from fastadv.distill.adversarial_training import TRADES
from fastadv.distill.iad import IADII
from fastadv.distill.parts.robust import RobustMethod
from fastadv.train.config.train_config import packaged_recipes, resolve


@pytest.mark.parametrize("recipe", packaged_recipes())
def test_every_method_of_a_recipe_can_be_built(recipe, tmp_path):
    config = resolve(recipe=recipe, flags={"data_dir": str(tmp_path)})
    for name in (*config.methods, *config.options):
        config.spec(name).build()


@pytest.mark.parametrize("recipe", packaged_recipes())
def test_the_rate_of_students_and_of_a_trained_teacher_falls(recipe, tmp_path):
    assert resolve(recipe=recipe, flags={"data_dir": str(tmp_path)}).constant_rates == []


@pytest.mark.parametrize("recipe", ["igdm-cifar100", "saad-cifar100"])
def test_robust_methods_are_compared_under_one_attack_and_one_diet_of_batchnorm(recipe, tmp_path):
    config = resolve(recipe=recipe, flags={"data_dir": str(tmp_path)})
    for name in (*config.methods, *config.options):
        for part in config.spec(name).build().parts():
            if isinstance(part, RobustMethod):
                assert part.attack_mode == "eval"
                assert part.clean_forward or isinstance(part, TRADES | IADII), "which have terms of the clean images"


def test_tald_is_over_every_base_of_the_comparison(tmp_path):
    bases = resolve(recipe="repdistiller-cifar100", flags={"data_dir": str(tmp_path)})
    over = resolve(recipe="tald-bases-cifar100", flags={"data_dir": str(tmp_path)})
    settings = [over.spec(name).build() for name in over.methods]
    alone = [bases.spec(name).build() for name in bases.methods if name != "ce"]
    assert [type(setting.base) for setting in settings] == [type(method) for method in alone]
    for field in ("teacher", "student", "epochs", "batch_size", "lr", "milestones", "weight_decay", "warm_up_lr"):
        assert getattr(over, field) == getattr(bases, field)
