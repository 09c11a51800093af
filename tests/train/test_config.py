import pytest

from fastadv.train.config import Config, resolve
from fastadv.train.errors import ConfigError


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
    assert (config.tald_variant, config.tald_weight, config.tald_images) == ("released", 0.01, 10)
    assert config.student == "resnet8"


def test_flags_override_the_recipe_and_the_recipe_overrides_defaults(tmp_path):
    recipe = write_recipe(tmp_path, "lr = 0.5\nmomentum = 0.25\n")
    config = resolve(recipe=recipe, flags={"lr": "0.125"})
    assert (config.lr, config.momentum, config.weight_decay) == (0.125, 0.25, Config().weight_decay)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("eval_eps", "8/255", 8 / 255),
        ("tald_eps", "5e-4", 5e-4),
        ("seeds", "3,1, 2", (3, 1, 2)),
        ("methods", "kd", ("kd",)),
        ("tald_images", "none", None),
        ("tald_images", "10", 10),
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
        ("alpha", "1.01"),
        ("seeds", ""),
        ("seeds", "1,1"),
        ("methods", "kd,unheard"),
        ("milestones", "9,3"),
        ("schedule", "linear"),
        ("student", "resnet21"),
        ("learning_rate", "0.1"),
        ("device", "abacus"),
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
        ("epoch", "epoch = 3"),
    ],
)
def test_a_wrong_type_or_key_in_a_recipe_is_named(tmp_path, name, text):
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        resolve(recipe=write_recipe(tmp_path, text))


def test_an_unknown_or_broken_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'unheard' not found, expected one of digits, tald-cifar100"):
        resolve(recipe="unheard")
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        resolve(recipe=write_recipe(tmp_path, "lr = = 1"))


def test_cifar100_needs_its_folder():
    with pytest.raises(ConfigError, match=r"^data_dir: None"):
        resolve(flags={"data": "cifar100"})


def test_a_stored_configuration_gives_itself_back(tmp_path):
    config = resolve(
        flags={"eval_eps": "8/255", "tald_images": "none", "data_dir": 'a "quoted" folder', "nesterov": True}
    )
    assert config.max_steps is None
    assert resolve(recipe=write_recipe(tmp_path, config.to_toml())) == config
    assert {line.split(" = ")[0] for line in config.to_toml().splitlines()} == set(Config.types())


def test_data_without_a_recipe_of_its_own_asks_for_one(tmp_path):
    with pytest.raises(ConfigError, match="none belongs to cifar10, expected --recipe"):
        resolve(flags={"data": "cifar10", "data_dir": tmp_path})
    config = resolve(recipe="tald-cifar100", flags={"data": "cifar10", "data_dir": tmp_path})
    assert (config.data, config.augmentation) == ("cifar10", "crop4_flip")
    with pytest.raises(ConfigError, match="data: 'mnist', expected one of digits, cifar10"):
        resolve(flags={"data": "mnist"})
