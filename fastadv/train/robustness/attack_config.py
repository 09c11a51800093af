"""The configuration of an evaluation under attack."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastadv.train.config.fields import About, Fields
from fastadv.train.config.run_config import check_device
from fastadv.train.data import datasets
from fastadv.train.networks import models
from fastadv.train.robustness.catalogue import ATTACKS, build_attack
from fastadv.train.runtime.errors import ConfigError


@dataclass(frozen=True)
class AttackConfig(Fields):
    """Every field is a flag of `fastadv attack`. eps and step sizes are in pixels of [0, 1]."""

    FILE = "attack.toml"

    model: Annotated[str, About("network")] = "digits_cnn"
    checkpoint: Annotated[
        Path | None, About("state_dict of the network, or a checkpoint of `fastadv train`; always needed")
    ] = None
    data: Annotated[str, About(f"dataset, of which the test split is attacked: {', '.join(datasets.NAMES)}")] = "digits"
    data_dir: Annotated[Path | None, About(datasets.DATA_DIR)] = None
    image_size: Annotated[int | None, About(datasets.IMAGE_SIZE, low=1)] = None
    n: Annotated[int | None, About("attack only the first n test images; none is all", low=1)] = None

    attack: Annotated[str, About(f"attack: {', '.join(ATTACKS)}; svgd is judged by each image's worst particle")] = (
        "pgd"
    )
    eps: Annotated[float, About("radius of the ball", low=0)] = 8 / 255
    norm: Annotated[str | None, About("linf, l2 or l1; none is the attack's own")] = None
    steps: Annotated[int | None, About("steps; none is the attack's own number", low=0)] = None
    step_size: Annotated[float | None, About("length of a step in the norm; none is the attack's own", above=0)] = None
    loss: Annotated[str | None, About("ce, kl, dlr or cw; none is the attack's own")] = None
    restarts: Annotated[int | None, About("attacks an image, several at random starts; the worst counts", low=1)] = None
    particles: Annotated[int | None, About("particles an image of svgd; none is its own number", low=1)] = None
    seed: Annotated[int, About("of the random starts, which do not depend on the batch size", low=0)] = 0

    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], About("of the frozen copy that is attacked; float32 judges")
    ] = "float32"
    batch_size: Annotated[int, About("images attacked at once, and saved at once", low=1)] = 100
    device: Annotated[str, About("torch device")] = "cpu"
    threads: Annotated[int | None, About("CPU threads; none is torch's own choice", low=1)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        models.check_name("model", self.model)
        if self.attack not in ATTACKS:
            raise ConfigError(f"attack: {self.attack!r}, expected one of {', '.join(ATTACKS)}")
        if self.checkpoint is None:
            raise ConfigError("checkpoint: None, expected the file with the network's weights")
        check_device(self.device)
        if self.device == "meta":
            raise ConfigError("device: 'meta', but there are no values on it")
        datasets.check_source(self.data, self.data_dir, self.image_size)
        build_attack(self)

    @property
    def run_name(self) -> str:
        """What the folder of a run is called where none is named."""
        return f"{self.attack}-{self.model}-{self.data}"
