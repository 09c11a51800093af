"""The packaged recipes: each can be read, and its methods built."""

import pytest

from fastadv.train.config.train_config import packaged_recipes, resolve
from fastadv.train.loop.trainer import learning_rate


@pytest.mark.parametrize("recipe", packaged_recipes())
def test_every_method_of_a_recipe_can_be_built(recipe, tmp_path):
    config = resolve(recipe=recipe, flags={"data_dir": str(tmp_path)})
    for name in (*config.methods, *config.options):
        config.spec(name).build()


@pytest.mark.parametrize("recipe", packaged_recipes())
def test_the_rate_of_a_trained_teacher_falls(recipe, tmp_path):
    config = resolve(recipe=recipe, flags={"data_dir": str(tmp_path)})
    if not config.trains_teacher:
        pytest.skip("trains no teacher")
    last = config.teacher_epochs - 1
    assert learning_rate(config.of_teacher, epoch=last, progress=last / config.teacher_epochs) < config.lr


def test_tald_is_over_every_base_of_the_comparison(tmp_path):
    bases = resolve(recipe="repdistiller-cifar100", flags={"data_dir": str(tmp_path)})
    over = resolve(recipe="tald-bases-cifar100", flags={"data_dir": str(tmp_path)})
    settings = [over.spec(name).build() for name in over.methods]
    alone = [bases.spec(name).build() for name in bases.methods if name != "ce"]
    assert [type(setting.base) for setting in settings] == [type(method) for method in alone]
    for field in ("teacher", "student", "epochs", "batch_size", "lr", "milestones", "weight_decay", "warm_up_lr"):
        assert getattr(over, field) == getattr(bases, field)
