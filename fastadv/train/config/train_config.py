"""The configuration of a run: defaults, a recipe and flags, in rising precedence. Importing this imports no torch."""

import inspect
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fastadv.train.config.attacks import check_attack
from fastadv.train.config.config_model import ConfigModel, checked
from fastadv.train.config.methods import MethodSpec, check_name, check_tables, read_spec
from fastadv.train.data import datasets
from fastadv.train.data.datasets import Augmentation
from fastadv.train.networks import catalogue
from fastadv.train.runtime.errors import ConfigError, did_you_mean, unknown_name

if TYPE_CHECKING:
    from fastadv.train.data.splits import Dataset

Precision = Literal["float32", "bfloat16", "float16"]

# The recipe that --data chooses when none is named; of all other data it is OTHER_RECIPE.
RECIPE_OF_DATA = {"digits": "digits", "cifar100": "tald-cifar100", "cifar10": "cifar10"}
OTHER_RECIPE = "images"
_RECIPES = resources.files("fastadv.train") / "recipes"


class DataConfig(ConfigModel):
    """The fields that choose a dataset, of both commands."""

    data: str = Field("digits", description=f"dataset: {datasets.DATA}")
    data_dir: Path | None = Field(None, description=datasets.DATA_DIR)
    image_size: int | None = Field(None, ge=1, description=datasets.IMAGE_SIZE)
    grayscale: bool = Field(False, description="read the images of a folder as one channel")

    def load_data(self, device: str) -> "Dataset":
        """Load the dataset on ``device``. Raises what :func:`fastadv.train.data.datasets.load` raises."""
        source = {name: getattr(self, name) for name in ("data_dir", "image_size", "grayscale")}
        return datasets.load(self.data, **source, device=device)


class Config(DataConfig):
    """Every field is a flag of `fastadv train` and a key of a recipe. eps and step sizes are in pixels of [0, 1]."""

    FILE: ClassVar[str] = "config.toml"

    augmentation: Augmentation = Field("none", description="random crop with zero padding 1 or 4, and horizontal flip")
    student_samples: int | None = Field(
        None, ge=1, description="train students on this many images, drawn anew for each seed"
    )

    teacher: str = Field("digits_cnn", description=f"teacher network: {catalogue.NETWORK}")
    teacher_checkpoint: Path | None = Field(
        None, description="state_dict of the teacher; without it the teacher is trained"
    )
    teacher_epochs: int = Field(20, ge=1, description="epochs to train the teacher, on the whole training split")
    teacher_method: str = Field("ce", description="method to train the teacher with, one that needs no teacher")
    standard_teacher_checkpoint: Path | None = Field(
        None, description="state_dict of a second teacher of that network, trained on clean images, for iad-ii"
    )
    student: str = Field("digits_small", description="student network, of the same names")
    methods: tuple[str, ...] = Field(
        ("ce", "kd", "tald"),
        description="methods to train the student with, and settings of them; see `fastadv methods`",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), description="one student per method and seed")
    options: dict[str, dict[str, Any]] = Field(
        {}, description="an option of a method; NAME.method=METHOD makes NAME another setting of it; may be repeated"
    )

    epochs: int = Field(100, ge=1, description="epochs to train a student")
    max_steps: int | None = Field(None, ge=1, description="stop a student after this many steps")
    steps_per_epoch: int | None = Field(None, ge=1, description="steps in an epoch; none is all training images once")
    batch_size: int = Field(64, ge=2, description="images in a step, over all processes")
    accumulate: int = Field(1, ge=1, description="pieces of a batch, computed in turn in each process")
    optimizer: str = Field("SGD", description="an optimizer of torch.optim with weight decay, such as AdamW")
    lr: float = Field(0.05, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, le=1, description="momentum of SGD")
    nesterov: bool = Field(False, description="Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of the optimizer")
    schedule: Literal["step", "cosine", "one-cycle"] = Field(
        "cosine",
        description="learning rate: times lr_decay at milestones, cosine to 0, or that after a rise from lr/25",
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="epochs after which the step schedule decays"
    )
    lr_decay: float = Field(0.1, gt=0, le=1, description="factor of the step schedule")

    warm_up_lr: float | None = Field(None, gt=0, description="learning rate of a method's warm-up; none is lr")
    label_smoothing: float = Field(0.0, ge=0, le=1, description="share of a label that cross-entropy spreads evenly")
    mixup: float | None = Field(
        None, gt=0, description="mix a batch's images in pairs, with shares of Beta(MIXUP, MIXUP); none mixes nothing"
    )
    clip_norm: float | None = Field(None, gt=0, description="clip the gradient to this l2 norm")
    teacher_ema: float | None = Field(
        None, gt=0, le=1, description="decay of the average of a trained teacher's weights; none is ema"
    )
    ema: float | None = Field(None, gt=0, le=1, description="decay of the average of the weights, which then counts")
    precision: Literal[Precision, "auto"] = Field(
        "float32",
        description="what the student is trained in, under autocast; auto is what the device is fast in, and with it"
        " frozen networks to attack, channels last, compiled networks, and on a GPU captured attacks",
    )
    compile: bool = Field(
        False,
        description="torch.compile the student and, but for attacks that are captured, the frozen networks they attack",
    )
    capture: bool = Field(
        False,
        description="run the attacks of methods as CUDA graphs, one a shape of batch; eager on a CPU, not run on a GPU",
    )
    freeze_teacher: bool = Field(False, description="use a copy of the teacher made to be attacked: BatchNorm folded")
    teacher_precision: Precision = Field("float32", description="of that copy")

    eval_epochs: int = Field(1, ge=1, description="epochs between two test accuracies")
    eval_batch_size: int = Field(500, ge=1, description="images in a step of evaluation")
    eval_samples: int | None = Field(None, ge=1, description="evaluate on the first test images; none is all")
    pgd_samples: int | None = Field(None, ge=1, description="attack only the first of these; none is all")
    eval_eps: float = Field(8 / 255, gt=0, description="linf radius of the evaluation under attack")
    eval_steps: int = Field(10, ge=1, description="steps of the PGD evaluation")
    eval_attack: str = Field(
        "pgd",
        description="also attack each finished student in linf by this one of `fastadv attack`, autoattack among them,"
        " with its own settings; pgd is the PGD evaluation alone",
    )

    log_steps: int = Field(50, ge=1, description="steps between two lines of metrics")
    checkpoint_epochs: int = Field(1, ge=1, description="epochs between two checkpoints")
    checkpoint_steps: int | None = Field(None, ge=1, description="also a checkpoint every so many steps")
    tensorboard: bool = Field(True, description="also write TensorBoard events, where it is installed")
    device: str = Field("cpu", description="torch device")
    threads: int | None = Field(None, ge=1, description="CPU threads; none is torch's own choice")
    channels_last: bool = Field(False, description="store images and weights channels last")

    @model_validator(mode="after")
    def _check(self) -> Self:
        # What needs no torch comes first, so that a typo is answered at once.
        for name in ("teacher", "student"):
            catalogue.check_name(name, getattr(self, name))
        for name in ("methods", "seeds"):
            value = getattr(self, name)
            if not value or len(set(value)) != len(value):
                raise ConfigError(f"{name}: {value!r}, expected at least one and no repetition")
        for name in self.methods:
            check_name(name, self.options, where="methods")
        check_name(self.teacher_method, self.options, where="teacher_method")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones: {self.milestones!r}, expected ascending epochs")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov: True, expected momentum above 0 with it")
        if self.optimizer != "SGD":
            check_optimizer(self.optimizer, nesterov=self.nesterov)
        check_attack("eval_attack", self.eval_attack)
        if self.teacher_precision != "float32" and not self.freeze_teacher:
            raise ConfigError(f"teacher_precision: {self.teacher_precision!r}, expected freeze_teacher with it")
        datasets.check_source(self.data, self.data_dir, self.image_size, self.grayscale)
        check_device(self.device)
        if self.precision == "float16" and not self.device.startswith("cuda"):
            raise ConfigError(f"precision: 'float16' on {self.device!r}, expected bfloat16 or float32 there")
        # In place of the field, which is frozen: the same values in the types of the options.
        self.__dict__["options"] = check_tables(self.options)
        for name in self.methods:
            self.spec(name)
        if self.teacher_spec.kind.needs_teacher:
            raise ConfigError(f"teacher_method: {self.teacher_method!r} needs a teacher itself")
        return self

    def spec(self, name: str, *, where: str = "methods") -> MethodSpec:
        """Return the method that ``name`` stands for in the field ``where``, with its options."""
        return read_spec(name, self.options, where=where)

    @property
    def specs(self) -> list[MethodSpec]:
        """The methods that students are trained with."""
        return [self.spec(name) for name in self.methods]

    @property
    def teacher_spec(self) -> MethodSpec:
        """The method that the teacher is trained with."""
        return self.spec(self.teacher_method, where="teacher_method")

    @property
    def needs_teacher(self) -> bool:
        """True where a student learns from a teacher."""
        return any(spec.kind.needs_teacher for spec in self.specs)

    @property
    def trains_teacher(self) -> bool:
        """True where the run trains that teacher itself."""
        return self.teacher_checkpoint is None and self.needs_teacher

    def check_used(self) -> None:
        """Raise ConfigError for a field that was given and that none of the run's methods uses."""
        specs = self.specs
        if self.trains_teacher:
            specs.insert(0, self.teacher_spec)
        names = ", ".join(dict.fromkeys(spec.name for spec in specs))
        for spec in specs if self.label_smoothing or self.mixup else ():
            parts = list(spec.build().parts())
            if self.label_smoothing and not any(part.smooths_labels for part in parts):
                raise ConfigError(
                    f"label_smoothing: {self.label_smoothing}, but {spec.name} has no cross-entropy of labels here"
                )
            if self.mixup and not all(part.mixes_images for part in parts):
                raise ConfigError(f"mixup: {self.mixup}, but {spec.name} looks at each single image's class or number")
        if self.capture and not any(spec.claims("attacks") for spec in specs):
            raise ConfigError(f"capture: True, but none of {names} attacks a network")
        second = self.standard_teacher_checkpoint
        if second is not None and not any(spec.takes("standard_teacher") for spec in specs):
            raise ConfigError(
                f"standard_teacher_checkpoint: {str(second)!r}, but none of {names} asks a second teacher; iad-ii does"
            )


def resolve(*, recipe: str | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Read defaults, overridden by the recipe, overridden by flags (texts as typed on the command line).

    recipe: the name of a packaged recipe or the path of a TOML file; None takes the one that belongs to the data.
    Raises ConfigError naming the recipe or the field.
    """
    given = Config.read_flags(flags or {})
    if recipe is None:
        data = given.get("data", "digits")
        datasets.check_name(data)
        recipe = RECIPE_OF_DATA.get(data, OTHER_RECIPE)
    return overridden(read_recipe(recipe), given)


def overridden(keys: Mapping[str, Any], given: Mapping[str, Any]) -> Config:
    """Return the configuration of a recipe's ``keys``, overridden by ``given``; of tables entry by entry."""
    options = checked("options", Config.model_fields["options"].annotation, keys.get("options", {}))
    for name, table in given.get("options", {}).items():
        options = {**options, name: {**options.get(name, {}), **table}}
    return Config(**{**keys, **given, "options": options})


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that come with fastadv."""
    return sorted(Path(entry.name).stem for entry in _RECIPES.iterdir())


def read_recipe(recipe: str) -> dict[str, Any]:
    """Return the keys of a packaged recipe, or of a TOML file where the name ends in .toml."""
    source: Any = Path(recipe) if recipe.endswith(".toml") else _RECIPES / f"{recipe}.toml"
    try:
        return Config.read_toml(source)
    except FileNotFoundError:
        names = packaged_recipes()
        near = did_you_mean(recipe, names)
        raise ConfigError(
            f"recipe: {recipe!r} not found{near or ','} expected one of {', '.join(names)}, or a path ending in .toml"
        ) from None


def check_optimizer(name: str, *, nesterov: bool) -> None:
    """Raise ConfigError where ``name`` is no optimizer of torch.optim with a rate and weight decay."""
    from torch import optim

    kinds = {key: kind for key, kind in vars(optim).items() if inspect.isclass(kind)}
    known = [key for key, kind in kinds.items() if {"lr", "weight_decay"} <= inspect.signature(kind).parameters.keys()]
    if name not in known:
        raise unknown_name("optimizer", name, sorted(known))
    if nesterov:
        raise ConfigError(f"nesterov: True, expected no with {name}; it is for SGD")


def check_device(name: str) -> None:
    """Raise ConfigError where ``name`` is no torch device or not here."""
    if name == "cpu":
        return
    import torch

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
