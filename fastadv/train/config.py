"""The configuration of a run: one typed dataclass, read from defaults, a recipe and flags, in rising precedence."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from fastadv.train import datasets, models
from fastadv.train.augment import Augmentation
from fastadv.train.errors import ConfigError
from fastadv.train.fields import About, Fields

# The recipe that --data chooses when none is named.
RECIPE_OF_DATA = {"digits": "digits", "cifar100": "tald-cifar100"}

MethodName = Literal["ce", "kd", "tald"]


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
    student: Annotated[str, About("student network")] = "digits_small"
    methods: Annotated[tuple[MethodName, ...], About("methods to train the student with")] = ("ce", "kd", "tald")
    seeds: Annotated[tuple[int, ...], About("one student per method and seed", low=0)] = (0, 1, 2)

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

    temperature: Annotated[float, About("temperature of KD", above=0)] = 4.0
    alpha: Annotated[float, About("share of KD: (1 - alpha) CE + alpha T^2 KL", low=0, high=1)] = 0.9
    tald_weight: Annotated[float, About("weight of TALD's loss matching", low=0)] = 0.01
    tald_variant: Annotated[
        Literal["projected", "released"], About("TALD's sampler: the text's or the released code's")
    ] = "projected"
    tald_samples: Annotated[
        Literal["svgd", "none", "noise"], About("TALD's samples, or a control: no attack, random noise")
    ] = "svgd"
    tald_images: Annotated[int | None, About("images of each batch that TALD attacks; none is all", low=1)] = None
    particles: Annotated[int, About("particles an image", low=1)] = 4
    tald_steps: Annotated[int, About("SVGD steps", low=1)] = 3
    tald_eps: Annotated[float, About("radius of TALD's ball in pixels: linf; for the released variant L2", above=0)] = (
        8 / 255
    )
    tald_xi: Annotated[float, About("finite-difference radius of the released variant, in pixels", above=0)] = 10.0
    tald_step_size: Annotated[float | None, About("SVGD step; none is 2.5 eps / steps", above=0)] = None

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
        check_device(self.device)
        datasets.check_source(self.data, self.data_dir, self.image_size)

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
    return Config(**{**read_recipe(recipe), **given})


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
