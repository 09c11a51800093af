"""A network behind its normalisation."""

from torch import Tensor, nn

from fastadv.attacks.model.wrappers import Normalize, Normalized
from fastadv.distill import Features
from fastadv.distill.parts.features import features_of

__all__ = ["Classifier", "Normalize"]


class Classifier(Normalized):
    """A network behind its normalisation: pixels in [0, 1] [N, C, H, W] to logits [N, classes]."""

    network: nn.Module

    def __init__(self, normalize: Normalize, network: nn.Module) -> None:
        nn.Module.__init__(self)
        self.normalize = normalize
        self.network = network

    def with_features(self, x: Tensor) -> Features:
        """Return the features of the network; TypeError where it has none."""
        return features_of("network", self.network, self.normalize(x))
