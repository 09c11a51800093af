"""The configuration of a run: one typed dataclass, read from defaults, a recipe and flags, in rising precedence."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch

from fastadv.train.config.fields import About, Fields
from fastadv.train.config.settings import Setting, check_tables, read_setting
from fastadv.train.config.values import check
from fastadv.train.data import datasets
from fastadv.train.data.augment import Augmentation
from fastadv.train.networks import models
from fastadv.train.networks.float32_output import Precision
from fastadv.train.runtime.errors import ConfigError

# The recipe that --data chooses when none is named.
RECIPE_OF_DATA = {"digits": "digits", "cifar100": "tald-cifar100"}
_RECIPES = resources.files("fastadv.train") / "recipes"


@dataclass(frozen=True)
class Config(Fields):
    """Every field is a flag of `fastadv train` and a key of a recipe. eps and steps sizes are in pixels of [0, 1]."""

    FILE = "config.toml"

    data: Annotated[str, About(f"dataset: {', '.join(datasets.NAMES)}")] = "digits"
    data_dir: Annotated[Path | None, About(datasets.DATA_DIR)] = None
    image_size: Annotated[int | None, About(datasets.IMAGE_SIZE, low=1)] = None
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
    standard_teacher_checkpoint: Annotated[
        Path | None, About("state_dict of a second teacher of that network, trained on clean images, for iad-ii")
    ] = None
    student: Annotated[str, About("student network")] = "digits_small"
    methods: Annotated[
        tuple[str, ...], About("methods to train the student with, and settings of them; see `fastadv methods`")
    ] = ("ce", "kd", "tald")
    seeds: Annotated[tuple[int, ...], About("one student per method and seed", low=0)] = (0, 1, 2)
    options: Annotated[
        dict[str, dict[str, Any]],
        About("an option of a method; NAME.method=METHOD makes NAME another setting of it; may be repeated"),
    ] = field(default_factory=dict)

    epochs: Annotated[int, About("epochs to train a student", low=1)] = 100
    max_steps: Annotated[int | None, About("stop a student after this many steps", low=1)] = None
    steps_per_epoch: Annotated[int | None, About("steps in an epoch; none is all training images once", low=1)] = None
    batch_size: Annotated[int, About("images in a step, over all processes", low=2)] = 64
    accumulate: Annotated[int, About("pieces of a batch, computed in turn in each process", low=1)] = 1
    lr: Annotated[float, About("peak learning rate of SGD", above=0)] = 0.05
    momentum: Annotated[float, About("momentum of SGD", low=0, high=1)] = 0.9
    nesterov: Annotated[bool, About("Nesterov momentum")] = False
    weight_decay: Annotated[float, About("weight decay of SGD", low=0)] = 5e-4
    schedule: Annotated[
        Literal["step", "cosine"], About("learning rate: times lr_decay at milestones, or cosine to 0")
    ] = "cosine"
    milestones: Annotated[tuple[int, ...], About("epochs after which the step schedule decays", low=1)] = ()
    lr_decay: Annotated[float, About("factor of the step schedule", above=0, high=1)] = 0.1

    warm_up_lr: Annotated[float | None, About("learning rate of a method's warm-up; none is lr", above=0)] = None
    clip_norm: Annotated[float | None, About("clip the gradient to this l2 norm", above=0)] = None
    ema: Annotated[float | None, About("decay of the average of the weights, which then counts", above=0, high=1)] = (
        None
    )
    precision: Annotated[Precision, About("what the student is trained in, under autocast")] = "float32"
    compile: Annotated[bool, About("torch.compile the student")] = False
    capture: Annotated[
        bool, About("run the attacks of methods as CUDA graphs, one a shape of batch; eager on a CPU, not run on a GPU")
    ] = False
    freeze_teacher: Annotated[bool, About("use a copy of the teacher made to be attacked: BatchNorm folded")] = False
    teacher_precision: Annotated[Precision, About("of that copy")] = "float32"

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
            models.check_name(name, getattr(self, name))
        for name in ("methods", "seeds"):
            value = getattr(self, name)
            if not value or len(set(value)) != len(value):
                raise ConfigError(f"{name}: {value!r}, expected at least one and no repetition")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones: {self.milestones!r}, expected ascending epochs")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov: True, expected momentum above 0 with it")
        if self.teacher_precision != "float32" and not self.freeze_teacher:
            raise ConfigError(f"teacher_precision: {self.teacher_precision!r}, expected freeze_teacher with it")
        self._check_options()
        check_device(self.device)
        if self.precision == "float16" and torch.device(self.device).type != "cuda":
            raise ConfigError(f"precision: 'float16' on {self.device!r}, expected bfloat16 or float32 there")
        datasets.check_source(self.data, self.data_dir, self.image_size)

    def _check_options(self) -> None:
        """Check every setting, and put the values of options in their types."""
        object.__setattr__(self, "options", check_tables(self.options))
        for name in self.methods:
            self.setting(name)
        if self.setting(self.teacher_method, where="teacher_method").build().needs_teacher:
            raise ConfigError(f"teacher_method: {self.teacher_method!r} needs a teacher itself")

    def setting(self, name: str, *, where: str = "methods") -> Setting:
        """The method that ``name`` stands for in the field ``where``, with its options."""
        return read_setting(name, self.options, where=where)

    @property
    def needs_teacher(self) -> bool:
        """Whether a student learns from a teacher."""
        return any(self.setting(name).build().needs_teacher for name in self.methods)

    def trained_settings(self) -> list[Setting]:
        """What the run trains networks with: the students' settings, after the teacher's unless that is loaded."""
        students = [self.setting(name) for name in self.methods]
        if self.teacher_checkpoint is not None or not self.needs_teacher:
            return students
        return [self.setting(self.teacher_method, where="teacher_method"), *students]

    def check_used(self) -> None:
        """Raises ConfigError for a field that was given and that none of the run's methods has a use for."""
        settings = self.trained_settings()
        names = ", ".join(dict.fromkeys(setting.name for setting in settings))
        if self.capture and not any(setting.attacks for setting in settings):
            raise ConfigError(f"capture: True, but none of {names} attacks a network")
        second = self.standard_teacher_checkpoint
        if second is not None and not any(setting.takes("standard_teacher") for setting in settings):
            raise ConfigError(
                f"standard_teacher_checkpoint: {str(second)!r}, but none of {names} asks a second teacher; iad-ii does"
            )

    def additions(self, asked: Self) -> Self:
        """This configuration with the further methods, seeds and settings of ``asked``.

        Raises ConfigError naming what else differs: nothing that belongs to a result may.
        """
        used = {part for name in (*self.methods, self.teacher_method) for part in self.setting(name).names()}

        def free(name: str) -> bool:
            field, *table = name.split(".")
            return field in ("methods", "seeds") or (field == "options" and table[0] not in used)

        if changes := self.changes(asked, free=free):
            raise ConfigError(changes)
        return replace(
            self,
            methods=tuple(dict.fromkeys((*self.methods, *asked.methods))),
            seeds=tuple(dict.fromkeys((*self.seeds, *asked.seeds))),
            options={**self.options, **asked.options},
        )

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
        data = given.get("data", "digits")
        datasets.check_name(data)
        if data not in RECIPE_OF_DATA:
            raise ConfigError(f"recipe: none belongs to {data}, expected --recipe with one, such as tald-cifar100")
        recipe = RECIPE_OF_DATA[data]
    chosen = read_recipe(recipe)
    options = check("options", Config.types()["options"], chosen.get("options", {}))
    for name, table in given.get("options", {}).items():
        options = {**options, name: {**options.get(name, {}), **table}}
    return Config(**{**chosen, **given, "options": options})


def packaged_recipes() -> list[str]:
    """The names of the recipes that come with fastadv."""
    return sorted(Path(entry.name).stem for entry in _RECIPES.iterdir())


def read_recipe(recipe: str) -> dict[str, Any]:
    """The keys of a packaged recipe, or of a TOML file where the name ends in .toml."""
    source: Any = Path(recipe) if recipe.endswith(".toml") else _RECIPES / f"{recipe}.toml"
    try:
        return Config.read_toml(source)
    except FileNotFoundError:
        names = ", ".join(packaged_recipes())
        raise ConfigError(f"recipe: {recipe!r} not found, expected one of {names}, or a path ending in .toml") from None


def check_device(name: str) -> None:
    """Raises ConfigError where ``name`` is no torch device or not here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: {name!r}, expected a torch device such as cpu or cuda") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device: {name!r}, but torch sees no CUDA device here")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"device: {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices here")
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # what torch raises for what it was built without
        raise ConfigError(f"device: {name!r}, but torch has none of it here ({error})") from None
