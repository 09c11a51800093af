"""The configuration of a run: defaults, a recipe and flags, in rising precedence. Importing this imports no torch."""

import inspect
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fastadv.train.config.attacks import check_attack
from fastadv.train.config.config_model import ConfigModel, checked, flag
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

    data: str = flag("digits", f"dataset: {datasets.DATA}")
    data_dir: Path | None = flag(None, datasets.DATA_DIR)
    image_size: int | None = flag(None, datasets.IMAGE_SIZE, ge=1)
    grayscale: bool = flag(False, "read the images of a folder as one channel")

    def load_data(self, device: str) -> "Dataset":
        """Load the dataset on ``device``. Raises what :func:`fastadv.train.data.datasets.load` raises."""
        source = {name: getattr(self, name) for name in ("data_dir", "image_size", "grayscale")}
        return datasets.load(self.data, **source, device=device)


class Config(DataConfig):
    """Every field is a flag of `fastadv train` and a key of a recipe. eps and step sizes are in pixels of [0, 1]."""

    FILE: ClassVar[str] = "config.toml"
    FOLDER: ClassVar[str] = "run_dir"

    augmentation: Augmentation = flag("none", "random crop with zero padding 1 or 4, and horizontal flip")
    student_samples: int | None = flag(None, "train students on this many images, drawn anew for each seed", ge=1)

    teacher: str = flag("digits_cnn", f"teacher network: {catalogue.NETWORK}")
    teacher_checkpoint: Path | None = flag(
        None,
        "state_dict of the teacher, its averaged one where the file has several; without it the teacher is trained",
    )
    teacher_epochs: int = flag(20, "epochs to train the teacher, on the whole training split", ge=1)
    teacher_milestones: tuple[Annotated[int, Field(ge=1)], ...] | None = flag(
        None, "milestones of a trained teacher; none is milestones"
    )
    teacher_method: str = flag("ce", "method to train the teacher with, one that needs no teacher")
    standard_teacher_checkpoint: Path | None = flag(
        None, "state_dict of a second teacher of that network, trained on clean images, for iad-ii"
    )
    student: str = flag("digits_small", "student network, of the same names")
    methods: tuple[str, ...] = flag(
        ("ce", "kd", "tald"), "methods to train the student with, and settings of them; see `fastadv methods`"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = flag((0, 1, 2), "one student per method and seed")
    options: dict[str, dict[str, Any]] = flag(
        {}, "an option of a method; NAME.method=METHOD makes NAME another setting of it; may be repeated"
    )

    epochs: int = flag(100, "epochs to train a student", ge=1)
    max_steps: int | None = flag(None, "stop a student after this many steps", ge=1)
    steps_per_epoch: int | None = flag(None, "steps in an epoch; none is all training images once", ge=1)
    batch_size: int = flag(64, "images in a step, over all processes", ge=2)
    accumulate: int = flag(1, "pieces of a batch, computed in turn in each process", ge=1)
    optimizer: str = flag("SGD", "an optimizer of torch.optim with weight decay, such as AdamW")
    lr: float = flag(0.05, "peak learning rate", gt=0)
    momentum: float = flag(0.9, "momentum of SGD", ge=0, le=1)
    nesterov: bool = flag(False, "Nesterov momentum")
    weight_decay: float = flag(5e-4, "weight decay of the optimizer", ge=0)
    schedule: Literal["step", "cosine", "one-cycle"] = flag(
        "cosine", "learning rate: times lr_decay at milestones, cosine to 0, or that after a rise from lr/25"
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = flag((), "epochs after which the step schedule decays")
    lr_decay: float = flag(0.1, "factor of the step schedule", gt=0, le=1)

    warm_up_lr: float | None = flag(None, "learning rate of a method's warm-up; none is lr", gt=0)
    label_smoothing: float = flag(0.0, "share of a label that cross-entropy spreads evenly", ge=0, le=1)
    mixup: float | None = flag(
        None, "mix a batch's images in pairs, with shares of Beta(MIXUP, MIXUP); none mixes nothing", gt=0
    )
    clip_norm: float | None = flag(None, "clip the gradient to this l2 norm", gt=0)
    teacher_ema: float | None = flag(
        None, "decay of the average of a trained teacher's weights; none is ema", gt=0, lt=1
    )
    ema: float | None = flag(None, "decay of the average of the weights, which then counts", gt=0, lt=1)
    precision: Literal[Precision, "auto"] = flag(
        "float32",
        "what the student is trained in, under autocast; auto is what the device is fast in, and with it"
        " frozen networks to attack, channels last, compiled networks, and on a GPU captured attacks",
    )
    compile: bool = flag(
        False, "torch.compile the student and, but for attacks that are captured, the frozen networks they attack"
    )
    capture: bool = flag(
        False, "run the attacks of methods as CUDA graphs, one a shape of batch; eager on a CPU, not run on a GPU"
    )
    freeze_teacher: bool = flag(False, "use a copy of the teacher made to be attacked: BatchNorm folded")
    teacher_precision: Precision = flag("float32", "of that copy")

    eval_epochs: int = flag(1, "epochs between two test accuracies", ge=1)
    eval_batch_size: int = flag(500, "images in a step of evaluation", ge=1)
    eval_samples: int | None = flag(None, f"evaluate on the first test images; none is all; {datasets.FIRST}", ge=1)
    pgd_samples: int | None = flag(None, "attack only the first of these; none is all", ge=1)
    eval_eps: float = flag(8 / 255, "linf radius of the evaluation under attack", gt=0)
    eval_steps: int = flag(10, "steps of the PGD evaluation", ge=1)
    eval_attack: str = flag(
        "pgd",
        "also attack each finished student in linf by this one of `fastadv attack`, autoattack among them,"
        " with its own settings; pgd is the PGD evaluation alone",
    )

    log_steps: int = flag(50, "steps between two lines of metrics", ge=1)
    checkpoint_epochs: int = flag(1, "epochs between two checkpoints", ge=1)
    checkpoint_steps: int | None = flag(None, "also a checkpoint every so many steps", ge=1)
    tensorboard: bool = flag(True, "also write TensorBoard events, where it is installed")
    device: str = flag("cpu", "torch device")
    threads: int | None = flag(None, "CPU threads; none is torch's own choice", ge=1)
    channels_last: bool = flag(False, "store images and weights channels last")

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
        for name in ("milestones", "teacher_milestones"):
            value = getattr(self, name) or ()
            if list(value) != sorted(set(value)):
                raise ConfigError(f"{name}: {value!r}, expected ascending epochs")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov: True, expected momentum above 0 with it")
        if self.optimizer != "SGD":
            check_optimizer(self.optimizer, nesterov=self.nesterov)
        if self.eval_eps > 1:
            raise ConfigError(
                f"eval_eps: {self.eval_eps}, expected at most 1, the width of the box: pixels are in [0, 1], and 8 of "
                "255 levels are --eval-eps 8/255"
            )
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
    def all_specs(self) -> list[MethodSpec]:
        """The methods that the run trains a network with, that of the teacher first."""
        return [*([self.teacher_spec] if self.trains_teacher else []), *self.specs]

    @property
    def needs_teacher(self) -> bool:
        """True where a student learns from a teacher."""
        return any(spec.kind.needs_teacher for spec in self.specs)

    @property
    def trains_teacher(self) -> bool:
        """True where the run trains that teacher itself."""
        return self.teacher_checkpoint is None and self.needs_teacher

    @property
    def of_teacher(self) -> Self:
        """The configuration that the teacher is trained with."""
        return self.replaced(
            epochs=self.teacher_epochs,
            steps_per_epoch=None,
            max_steps=None,
            milestones=self.milestones if self.teacher_milestones is None else self.teacher_milestones,
            ema=self.teacher_ema or self.ema,
        )

    def steps_in_epoch(self, images: int) -> int:
        """Return how many steps an epoch of so many training images has."""
        return self.steps_per_epoch or math.ceil(images / self.batch_size)

    def check_used(self) -> None:
        """Raise ConfigError where a method does nothing with label_smoothing or mixup, or none does anything with
        capture or standard_teacher_checkpoint, and it was given.
        """
        specs = self.all_specs
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

    def without_effect(self, given: Mapping[str, Any]) -> list[str]:
        """Return a sentence for each of the flags ``given``, as typed, and each table of options in them, that changes
        nothing here.

        Not an error: recipes have them too, beside which a flag may be all that differs.
        """
        reasons: dict[str, str] = {}
        if self.schedule != "step":
            reasons |= dict.fromkeys(("milestones", "lr_decay", "teacher_milestones"), f"schedule is {self.schedule}")
        if self.optimizer != "SGD":
            reasons["momentum"] = f"optimizer is {self.optimizer}"
        if not self.trains_teacher:
            fields = ("teacher_epochs", "teacher_method", "teacher_milestones", "teacher_ema")
            reasons |= dict.fromkeys(fields, "no teacher is trained")
        if not self.needs_teacher:
            fields = ("teacher", "teacher_checkpoint", "freeze_teacher", "teacher_precision")
            reasons |= dict.fromkeys(fields, "no method has a teacher")
        if "warm_up_lr" in given and not any(spec.build().warm_up_epochs for spec in self.all_specs):
            reasons["warm_up_lr"] = "no method warms up"
        read = set[str]().union(*(spec.names() for spec in self.all_specs))
        unread = [f"options.{name}" for name in self.read_flags(given).get("options", {}) if name not in read]
        reasons |= dict.fromkeys(unread, "no method of this run has it")
        return [f"{name} has no effect: {reasons[name]}" for name in (*given, *unread) if name in reasons]

    @property
    def constant_rates(self) -> list[str]:
        """A sentence for each step schedule, of the students and of a trained teacher, that never lowers the rate.

        None where an lr_decay of 1 asks for that.
        """
        trained = {"milestones": self}
        if self.trains_teacher:
            trained["teacher_milestones"] = self.of_teacher
        return [
            f"{name}: none of {list(training.milestones)} lies within {training.epochs} epochs, the rate is constant"
            for name, training in trained.items()
            if training.schedule == "step" and training.lr_decay != 1
            if all(epoch >= training.epochs for epoch in training.milestones)
        ]


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


def in_new_words(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a stored configuration, of an earlier version in the words of this one."""
    if "pgd_samples" in keys or "eval_samples" not in keys:
        return dict(keys)
    # It bounded the attack alone.
    return {**keys, "pgd_samples": keys["eval_samples"], "eval_samples": "none"}


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
