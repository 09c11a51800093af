"""A network behind its normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastadv.attacks.model.wrappers import Normalized
from fastadv.distill import Features
from fastadv.distill.parts.features import features_of
from fastadv.train.runtime.errors import ConfigError, in_a_line


class Classifier(Normalized):
    """A network behind its normalisation: pixels in [0, 1] [N, C, H, W] to logits [N, classes]."""

    network: nn.Module

    @classmethod
    def of(cls, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> "Classifier":
        """Return ``network`` behind the normalisation of the data, and behind none where it brings its own."""
        if normalises(network):
            return cls(network, [0.0] * len(mean), [1.0] * len(std))
        return cls(network, mean, std)

    def with_features(self, x: Tensor) -> Features:
        """Return the features of the network; TypeError where it has none."""
        return features_of("network", self.network, self.normalize(x))


def normalises(network: nn.Module) -> bool:
    """Return whether ``network`` is known to take pixels in [0, 1]."""
    return isinstance(network, Normalized)


def check_fit(field: str, name: str, network: nn.Module, x: Tensor, classes: int) -> None:
    """Raise ConfigError naming ``field`` where ``network``, called ``name``, makes no logits [N, classes] of ``x``."""
    try:
        with torch.no_grad():
            logits = network(x)
    except Exception as error:  # networks of others raise nearly anything
        raise ConfigError(f"{field}: {name!r} cannot take images {list(x.shape[1:])} ({in_a_line(error)})") from error
    if not isinstance(logits, Tensor):
        mode = "training" if network.training else "evaluation"
        raise ConfigError(
            f"{field}: {name!r} gives a {type(logits).__name__} in {mode}, expected logits alone; "
            "fastadv.attacks.Logits(network, key) gives those"
        )
    if logits.shape != (len(x), classes):
        raise ConfigError(
            f"{field}: {name!r} gives {list(logits.shape)} for {len(x)} images, expected logits [{len(x)}, {classes}]"
        )
