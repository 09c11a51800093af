"""The configuration of a run: one typed dataclass, read from defaults, a recipe and flags, in rising precedence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from fastadv.train import models
from fastadv.train.augment import Augmentation
from fastadv.train.errors import ConfigError
from fastadv.train.fields import About, Fields
from fastadv.train.settings import Setting, read_setting
from fastadv.train.values import check

# The recipe that --data chooses when none is named.
RECIPE_OF_DATA = {"digits": "digits", "cifar100": "tald-cifar100"}


@dataclass(frozen=True)
class Config(Fields):
    """Every field is a flag of `fastadv train` and a key of a recipe. eps and steps sizes are in pixels of [0, 1]."""

    FILE = "config.toml"

    data: Annotated[Literal["digits", "cifar100"], About("dataset")] = "digits"
    data_dir: Annotated[Path | None, About("folder that holds cifar-100-python or cifar-100-binary")] = None
    augmentation: Annotated[Augmentation, About("random crop with zero padding 1 or 4, and horizontal flip")] = "none"
    student_samples: Annotated[
        int | None, About("train students on this many images, drawn anew for each seed", low=1)
    ] = None

    teacher: Annotated[str, About("teacher network")] = "digits_cnn"
    teacher_checkpoint: Annotated[
        Path | None, About("state_dict of the teacher; without it the teacher is trained")
    ] = None
    teacher_epochs: Annotated[int, About("epochs to train the teacher, on the whole training split", low=1)] = 20
    teacher_method: Annotated[str, About("method to train the teacher with, one that needs no teacher")] = "ce"
    student: Annotated[str, About("student network")] = "digits_small"
    methods: Annotated[
        tuple[str, ...], About("methods to train the student with, and settings of them; see `fastadv methods`")
    ] = ("ce", "kd", "tald")
    seeds: Annotated[tuple[int, ...], About("one student per method and seed", low=0)] = (0, 1, 2)
    options: Annotated[
        dict[str, dict[str, Any]],
        About("an option of a method; NAME.method=METHOD makes NAME a setting of its own; may be repeated"),
    ] = field(default_factory=dict)

    epochs: Annotated[int, About("epochs to train a student", low=1)] = 100
    max_steps: Annotated[int | None, About("stop a student after this many steps", low=1)] = None
    batch_size: Annotated[int, About("images in a step", low=2)] = 64
    lr: Annotated[float, About("peak learning rate of SGD", above=0)] = 0.05
    momentum: Annotated[float, About("momentum of SGD", low=0, high=1)] = 0.9
    nesterov: Annotated[bool, About("Nesterov momentum")] = False
    weight_decay: Annotated[float, About("weight decay of SGD", low=0)] = 5e-4
    schedule: Annotated[
        Literal["step", "cosine"], About("learning rate: times lr_decay at milestones, or cosine to 0")
    ] = "cosine"
    milestones: Annotated[tuple[int, ...], About("epochs after which the step schedule decays", low=1)] = ()
    lr_decay: Annotated[float, About("factor of the step schedule", above=0, high=1)] = 0.1

    eval_epochs: Annotated[int, About("epochs between two test accuracies", low=1)] = 1
    eval_batch_size: Annotated[int, About("images in a step of evaluation", low=1)] = 500
    eval_samples: Annotated[int | None, About("attack only the first test images; none is all", low=1)] = None
    eval_eps: Annotated[float, About("linf radius of the PGD evaluation", above=0)] = 8 / 255
    eval_steps: Annotated[int, About("steps of the PGD evaluation", low=1)] = 10

    log_steps: Annotated[int, About("steps between two lines of metrics", low=1)] = 50
    checkpoint_epochs: Annotated[int, About("epochs between two checkpoints", low=1)] = 1
    checkpoint_steps: Annotated[int | None, About("also a checkpoint every so many steps", low=1)] = None
    tensorboard: Annotated[bool, About("also write TensorBoard events, where it is installed")] = True
    device: Annotated[str, About("torch device")] = "cpu"
    threads: Annotated[int | None, About("CPU threads; none is torch's own choice", low=1)] = None
    channels_last: Annotated[bool, About("store images and weights channels last")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("teacher", "student"):
            if getattr(self, name) not in models.NAMES:
                raise ConfigError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(models.NAMES)}")
        for name in ("methods", "seeds"):
            value = getattr(self, name)
            if not value or len(set(value)) != len(value):
                raise ConfigError(f"{name}: {value!r}, expected at least one and no repetition")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones: {self.milestones!r}, expected ascending epochs")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov: True, expected momentum above 0 with it")
        self._check_options()
        check_device(self.device)
        check_data_dir(self.data, self.data_dir)

    def _check_options(self) -> None:
        """Check every setting, and put the values of options in their types."""
        settings = {name: read_setting(name, self.options, where="options") for name in self.options}
        for setting in settings.values():
            setting.build()
        object.__setattr__(self, "options", {name: setting.table() for name, setting in settings.items()})
        for name in self.methods:
            self.setting(name)
        if self.setting(self.teacher_method, where="teacher_method").build().needs_teacher:
            raise ConfigError(f"teacher_method: {self.teacher_method!r} needs a teacher itself")

    def setting(self, name: str, *, where: str = "methods") -> Setting:
        """The method that ``name`` stands for in the field ``where``, with its options."""
        return read_setting(name, self.options, where=where)

    @property
    def run_name(self) -> str:
        """What the folder of a run is called where none is named."""
        return self.data


def resolve(*, recipe: str | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Defaults, overridden by the recipe, overridden by flags (texts as typed on the command line).

    recipe: the name of a packaged recipe or the path of a TOML file; None takes the one that belongs to the data.
    Raises ConfigError naming the recipe or the field.
    """
    given = Config.read(flags or {})
    if recipe is None:
        recipe = RECIPE_OF_DATA.get(given.get("data", "digits"), "digits")
    chosen = read_recipe(recipe)
    options = check("options", Config.types()["options"], chosen.get("options", {}))
    for name, table in given.get("options", {}).items():
        options = {**options, name: {**options.get(name, {}), **table}}
    return Config(**{**chosen, **given, "options": options})


def read_recipe(recipe: str) -> dict[str, Any]:
    """The keys of a packaged recipe, or of a TOML file where the name ends in .toml."""
    packaged = resources.files("fastadv.train") / "recipes"
    if recipe.endswith(".toml"):
        source: Any = Path(recipe)
    else:
        source = packaged / f"{recipe}.toml"
    try:
        return Config.read_toml(source)
    except FileNotFoundError:
        names = ", ".join(sorted(Path(entry.name).stem for entry in packaged.iterdir()))
        raise ConfigError(f"recipe: {recipe!r} not found, expected one of {names}, or a path ending in .toml") from None


def check_device(name: str) -> None:
    """Raises ConfigError where ``name`` is no torch device or not here."""
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise ConfigError(f"device: {name!r}, expected a torch device such as cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r}, but torch sees no CUDA device here")


def check_data_dir(data: str, data_dir: Path | None) -> None:
    """Raises ConfigError where the dataset lies in a folder and none is named."""
    if data == "cifar100" and data_dir is None:
        raise ConfigError("data_dir: None, expected the folder that holds cifar-100-python or cifar-100-binary")
