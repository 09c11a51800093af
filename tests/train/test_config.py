from pathlib import Path

import pytest

import fastadv
from fastadv.train.config.train_config import Config, resolve
from fastadv.train.runtime.errors import ConfigError

RECIPES = Path(fastadv.__file__).parent / "train" / "recipes"


def write_recipe(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text)
    return str(path)


def test_no_argument_is_the_digits_job():
    config = resolve()
    assert (config.data, config.teacher, config.methods) == ("digits", "digits_cnn", ("ce", "kd", "tald"))
    assert len(config.seeds) >= 3


def test_the_data_chooses_the_recipe():
    config = resolve(flags={"data": "cifar100", "data_dir": "somewhere", "student": "resnet8"})
    assert config.milestones == (150, 180, 210)
    tald = config.spec("tald").build()
    assert (tald.variant, tald.weight, tald.images, tald.bounds) == ("released", 0.01, 10, None)
    assert config.student == "resnet8"


def test_flags_override_the_recipe_and_the_recipe_overrides_defaults(tmp_path):
    recipe = write_recipe(tmp_path, "lr = 0.5\nmomentum = 0.25\n")
    config = resolve(recipe=recipe, flags={"lr": "0.125"})
    assert (config.lr, config.momentum, config.weight_decay) == (0.125, 0.25, Config().weight_decay)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("eval_eps", "8/255", 8 / 255),
        ("eval_eps", "5e-4", 5e-4),
        ("seeds", "3,1, 2", (3, 1, 2)),
        ("methods", "kd", ("kd",)),
        ("eval_samples", "none", None),
        ("eval_samples", "10", 10),
        ("nesterov", True, True),
    ],
)
def test_a_flag_means_what_its_field_means(name, text, value):
    assert getattr(resolve(flags={name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", "fast"),
        ("lr", "1/0"),
        ("lr", "nan"),
        ("lr", "0"),
        ("epochs", "1.5"),
        ("epochs", "0"),
        ("momentum", "-0.1"),
        ("lr_decay", "1.01"),
        ("ema", "1"),
        ("teacher_ema", "1"),
        ("eval_eps", "8"),
        ("seeds", ""),
        ("seeds", "1,1"),
        ("methods", "kd,unheard"),
        ("teacher_method", "unheard"),
        ("teacher_method", "kd"),
        ("milestones", "9,3"),
        ("teacher_milestones", "9,3"),
        ("schedule", "linear"),
        ("student", "resnet21"),
        ("learning_rate", "0.1"),
        ("device", "abacus"),
        ("device", "hpu"),
    ],
)
def test_an_impossible_flag_is_named(name, value):
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        resolve(flags={name: value})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epochs", "epochs = 1.5"),
        ("epochs", 'epochs = "12"'),
        ("nesterov", "nesterov = 1"),
        ("batch_size", "batch_size = true"),
        ("lr", "lr = [0.1]"),
        ("seeds", "seeds = 0"),
        ("data", "data = 3"),
        ("options", "options = 3"),
        ("options", "[options]\nkd = 4.0"),
        ("epoch", "epoch = 3"),
    ],
)
def test_a_wrong_type_or_key_in_a_recipe_is_named(tmp_path, name, text):
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        resolve(recipe=write_recipe(tmp_path, text))


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.iterdir()))
def test_every_packaged_recipe_is_a_configuration(recipe, tmp_path):
    assert resolve(recipe=recipe, flags={"data_dir": str(tmp_path)}).methods


def test_an_unknown_or_broken_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'unheard' not found, expected one of .*digits, .*tald-cifar100"):
        resolve(recipe="unheard")
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        resolve(recipe=write_recipe(tmp_path, "lr = = 1"))


def test_cifar100_needs_its_folder():
    with pytest.raises(ConfigError, match=r"^data_dir: None"):
        resolve(flags={"data": "cifar100"})


def test_a_stored_configuration_gives_itself_back(tmp_path):
    options = ["kd.alpha=1", "tald.images=10", "tald.bounds=none", "mild.method=tald", "mild.eps=1/255", "mild.base=kd"]
    config = resolve(
        flags={
            **{"eval_eps": "8/255", "eval_samples": "none", "data_dir": 'a "quoted" folder', "nesterov": True},
            **{"methods": "kd,mild", "options": options},
        }
    )
    assert config.max_steps is None
    assert config.options["mild"] == {"method": "tald", "eps": 1 / 255, "base": "kd"}
    assert resolve(recipe=write_recipe(tmp_path, config.to_toml())) == config
    keys = config.to_toml().partition("\n[")[0].splitlines()
    assert {line.split(" = ")[0] for line in keys} == set(Config.model_fields) - {"options"}


def test_an_option_overrides_the_recipes_and_leaves_its_others():
    config = resolve(flags={"options": ["tald.eps=8/255"]})
    assert config.options["tald"] == {**resolve().options["tald"], "eps": 8 / 255}
    assert resolve(flags={"options": ["tald.eps=8/255", "tald.eps=0.5"]}).options["tald"]["eps"] == 0.5


def test_changes_are_named_to_the_option():
    changed = resolve(flags={"lr": "0.5", "options": ["tald.eps=0.25", "new.method=kd"]})
    expected = "options.tald.eps 0.1 -> 0.25, lr 0.05 -> 0.5, options.new.method not given -> 'kd'"
    assert resolve().changes(changed) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "milestones: none of [] lies within 9 epochs, the rate is constant"),
        ({"milestones": "9,12"}, "milestones: none of [9, 12] lies within 9 epochs, the rate is constant"),
        (
            {"milestones": "8", "methods": "kd", "teacher_epochs": "5"},
            "teacher_milestones: none of [8] lies within 5 epochs, the rate is constant",
        ),
    ],
)
def test_a_step_schedule_that_never_steps_is_told(flags, message):
    (said,) = resolve(flags={"schedule": "step", "epochs": "9", "methods": "ce", **flags}).constant_rates
    assert said == message


@pytest.mark.parametrize(
    "flags",
    [
        {"schedule": "cosine"},
        {"lr_decay": "1"},
        {"milestones": "8", "teacher_epochs": "5"},
        {"milestones": "8", "methods": "kd", "teacher_epochs": "5", "teacher_milestones": "4"},
        {"milestones": "8", "methods": "kd", "teacher_epochs": "5", "teacher_checkpoint": "there.pt"},
    ],
)
def test_of_a_rate_that_falls_or_is_asked_to_stay_nothing_is_told(flags):
    assert resolve(flags={"schedule": "step", "epochs": "9", "methods": "ce", **flags}).constant_rates == []


@pytest.mark.parametrize(
    ("data", "recipe"),
    [("cifar10", "cifar10"), ("folder", "images"), ("tiny-imagenet", "images"), ("json:loads", "images")],
)
def test_all_data_have_a_recipe(tmp_path, data, recipe):
    flags = {"data": data, "data_dir": str(tmp_path)}
    config = resolve(flags=flags)
    assert config == resolve(recipe=recipe, flags=flags)
    assert (config.data, config.augmentation, config.methods) == (data, "crop4_flip", ("ce", "kd", "tald"))
    tald = config.spec("tald").build()
    assert (tald.variant, tald.images, tald.eps) == ("projected", 10, 8 / 255)
    with pytest.raises(ConfigError, match="data: 'mnist', expected one of digits, cifar10"):
        resolve(flags={"data": "mnist"})


@pytest.mark.parametrize(
    ("flags", "notes"),
    [
        ({"schedule": "cosine", "milestones": "6,8"}, ["milestones has no effect: schedule is cosine"]),
        ({"schedule": "one-cycle", "lr_decay": "0.2"}, ["lr_decay has no effect: schedule is one-cycle"]),
        ({"schedule": "step", "milestones": "6,8", "methods": "ce"}, []),
        (
            {"teacher_epochs": "3", "teacher_checkpoint": "t.pt"},
            ["teacher_epochs has no effect: no teacher is trained"],
        ),
        ({"teacher_epochs": "3"}, []),
        ({"methods": "ce", "freeze_teacher": True}, ["freeze_teacher has no effect: no method has a teacher"]),
        ({"optimizer": "AdamW", "momentum": "0.5"}, ["momentum has no effect: optimizer is AdamW"]),
        ({"methods": "ce,kd", "warm_up_lr": "0.1"}, ["warm_up_lr has no effect: no method warms up"]),
        ({"methods": "tald", "options": ["tald.base=ft"], "warm_up_lr": "0.1"}, []),
        (
            {"methods": "ce,igdm", "options": ["adaad.eps=0.1", "kd.alpha=0.5", "bss.steps=2"]},
            [f"options.{name} has no effect: no method of this run has it" for name in ("kd", "bss")],
        ),
    ],
    ids=str,
)
def test_flags_without_effect_are_told(flags, notes):
    assert resolve(flags=flags).without_effect(flags) == notes
