"""The methods by the names of the command line."""

from fastadv.distill import KD, TALD, CrossEntropy, Method
from fastadv.train.config import Config, MethodName

LABELS: dict[MethodName, str] = {"ce": "plain (CE)", "kd": "KD", "tald": "TALD + KD"}


def build_method(name: MethodName, config: Config) -> Method:
    """The method `name` with the parameters of `config`."""
    if name == "ce":
        return CrossEntropy()
    return build_kd(config) if name == "kd" else build_tald(config)


def build_kd(config: Config) -> KD:
    return KD(temperature=config.temperature, alpha=config.alpha)


def build_tald(config: Config) -> TALD:
    return TALD(
        base=build_kd(config),
        weight=config.tald_weight,
        particles=config.particles,
        steps=config.tald_steps,
        eps=config.tald_eps,
        step_size=config.tald_step_size,
        variant=config.tald_variant,
        samples=config.tald_samples,
        images=config.tald_images,
        xi=config.tald_xi,
        # The released code clamps normalised pixels at +-2.5, beyond what any pixel in [0, 1] becomes.
        bounds=None if config.tald_variant == "released" else (0.0, 1.0),
    )
