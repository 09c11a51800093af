"""The configuration of an evaluation under attack."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from fastadv.train.config.attacks import ATTACKS, ENSEMBLE, ENSEMBLE_VERSIONS, check_attack
from fastadv.train.config.config_model import flag
from fastadv.train.config.train_config import DataConfig, Precision, check_device
from fastadv.train.data import datasets
from fastadv.train.networks import catalogue
from fastadv.train.runtime.errors import ConfigError, did_you_mean, unknown_name

if TYPE_CHECKING:
    from fastadv.attacks import Attack

# Fields that not every attack takes; None leaves the attack's own default.
OPTIONAL = ("steps", "step_size", "norm", "loss", "restarts", "particles", "queries", "targets")
# Keywords of attacks that hold something for each image of a batch.
_PER_IMAGE = ("reference", "sample_ids", "mask")


class AttackConfig(DataConfig):
    """Every field is a flag of `fastadv attack`. eps and step sizes are in pixels of [0, 1]."""

    FILE: ClassVar[str] = "attack.toml"
    FOLDER: ClassVar[str] = "out"

    model: str = flag("digits_cnn", f"network: {catalogue.NETWORK}")
    checkpoint: Path | None = flag(
        None,
        "state_dict of the network, or a checkpoint of `fastadv train`, of which averaged weights count where it has"
        " them; MODULE:FUNCTION may do without",
    )
    data: str = flag("digits", f"dataset, of which the test split is attacked: {datasets.DATA}")
    n: int | None = flag(None, f"attack only the first n test images; none is all; {datasets.FIRST}", ge=1)

    attack: str = flag(
        "pgd", f"attack: {', '.join((*ATTACKS, ENSEMBLE))}; svgd is judged by each image's worst particle"
    )
    eps: float = flag(8 / 255, "radius of the ball", ge=0)
    allow_large_eps: bool = flag(False, "take an eps above 1, the width of the box, in linf")
    norm: str | None = flag(None, "linf, l2 or l1; none is the attack's own")
    steps: int | None = flag(None, "steps; none is the attack's own number", ge=0)
    step_size: float | None = flag(None, "length of a step in the norm; none is the attack's own", gt=0)
    loss: str | None = flag(None, "ce, kl, dlr or cw; none is the attack's own")
    restarts: int | None = flag(None, "attacks an image, several at random starts; the worst counts", ge=1)
    particles: int | None = flag(None, "particles an image of svgd; none is its own number", ge=1)
    queries: int | None = flag(None, "queries an image of square; none is its own number", ge=0)
    targets: int | None = flag(
        None,
        "of apgd and fab, aim at so many classes in turn, the likeliest wrong ones first; any error counts;"
        " none is no target of apgd and fab's own number",
        ge=1,
    )
    ensemble: str | None = flag(
        None, f"of autoattack, {', '.join(ENSEMBLE_VERSIONS)}, or attacks joined by commas; none is standard"
    )
    save: Path | None = flag(
        None, "of autoattack, a file NAME.npz for all images, or a folder for the broken ones as 8-bit PNG"
    )
    seed: int = flag(0, "of the random starts, which do not depend on the batch size", ge=0)

    dtype: Precision = flag("float32", "of the frozen copy that is attacked; float32 judges")
    batch_size: int = flag(100, "images attacked at once, and saved at once", ge=1)
    device: str = flag("cpu", "torch device")
    threads: int | None = flag(None, "CPU threads; none is torch's own choice", ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        catalogue.check_name("model", self.model)
        check_attack("attack", self.attack)
        if self.checkpoint is None and not catalogue.is_own(self.model):
            raise ConfigError("checkpoint: None, expected the file with the network's weights")
        datasets.check_source(self.data, self.data_dir, self.image_size, self.grayscale)
        check_device(self.device)
        if self.device == "meta":
            raise ConfigError("device: 'meta', but there are no values on it")
        if self.attack == ENSEMBLE:
            self._check_ensemble()
        else:
            for name in ("ensemble", "save"):
                if (value := getattr(self, name)) is not None:
                    raise ConfigError(f"{name}: {str(value)!r}, but only {ENSEMBLE} has it")
        if self.keywords.get("norm") == "linf" and self.eps > 1 and not self.allow_large_eps:
            raise ConfigError(
                f"eps: {self.eps}, expected at most 1, the width of the box: pixels are in [0, 1], and 8 of 255 levels "
                "are --eps 8/255; --allow-large-eps takes it"
            )
        return self

    def _check_ensemble(self) -> None:
        for name in OPTIONAL:
            if name != "norm" and getattr(self, name) is not None:
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r}, but {ENSEMBLE} has no {name}; it takes norm, ensemble"
                )
        if self.norm not in (None, "linf", "l2", "l1"):
            near = did_you_mean(self.norm, ("linf", "l2", "l1"))
            raise ConfigError(f"norm: {self.norm!r}{near or ','} expected linf, l2 or l1")
        self._check_versions()
        if self.save is not None and self.save.suffix not in ("", ".npz"):
            raise ConfigError(f"save: {str(self.save)!r}, expected a file NAME.npz, or a folder for PNG")

    def _check_versions(self) -> None:
        """Check ``ensemble``, which stands for a version or names of attacks."""
        from fastadv.attacks.methods.autoattack import ATTACKS as NAMES

        version = self.keywords["version"]
        if isinstance(version, str):
            if self.norm == "l1" and version != "standard":
                raise ConfigError(f"ensemble: {version!r}, but of l1 there are standard and names of attacks")
            return
        for name in version:
            if name not in NAMES:
                raise unknown_name("ensemble", name, (*ENSEMBLE_VERSIONS, *NAMES))
        if len(set(version)) < len(version):
            raise ConfigError(f"ensemble: {self.ensemble!r}, expected each attack once")

    @property
    def keywords(self) -> dict[str, Any]:
        """Every keyword of the attack, or of the ensemble, that holds for all images, its defaults included."""
        if self.attack == ENSEMBLE:
            version: Any = self.ensemble or "standard"
            if version not in ENSEMBLE_VERSIONS:
                version = [name.strip() for name in version.split(",")]
            return {"version": version, "eps": self.eps, "norm": self.norm or "linf", "seed": self.seed}
        attack = self.build_attack()
        defaults = {name: parameter.default for name, parameter in attack.__signature__.parameters.items()}
        return {name: attack.keywords.get(name, defaults[name]) for name in defaults if name not in _PER_IMAGE}

    def build_attack(self) -> "Attack":
        """Build the attack. Raises ConfigError for a field that the attack does not take or a value it refuses."""
        from fastadv import attacks

        kind = attacks.ATTACKS[self.attack]
        known = kind.__signature__.parameters
        given = {name: value for name in OPTIONAL if (value := getattr(self, name)) is not None}
        for name, value in given.items():
            if name not in known:
                takes = ", ".join(each for each in OPTIONAL if each in known)
                raise ConfigError(f"{name}: {value!r}, but {self.attack} has no {name}; it takes {takes}")
        if given.get("restarts", 1) > 1 and "random_start" in known:
            given["random_start"] = True  # without, fgsm and mi_fgsm would do the same so many times
        if self.attack == "apgd" and "targets" in given:
            given = {"variant": "autoattack", "loss": "dlr", **given}  # the only form that aims at classes in turn
        try:
            return kind(eps=self.eps, seed=self.seed, **given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.attack}: {error}") from None
