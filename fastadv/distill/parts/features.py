"""Features of a network, for losses that compare more than logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Features(NamedTuple):
    """The results of one forward pass.

    maps: the stem's and each stage's output after its ReLU, [N, C, H, W], from the largest to the smallest.
    preactivations: the same before that ReLU; where a stage ends without one (MobileNetV2's), its map again.
    embedding: what the last linear layer reads, [N, D].
    logits: [N, classes].
    """

    maps: tuple[Tensor, ...]
    preactivations: tuple[Tensor, ...]
    embedding: Tensor
    logits: Tensor

    def of_rows(self, rows: slice) -> Features:
        """Return the same of some of the samples."""
        maps = tuple(x[rows] for x in self.maps)
        preactivations = tuple(x[rows] for x in self.preactivations)
        return Features(maps, preactivations, self.embedding[rows], self.logits[rows])


@runtime_checkable
class Featured(Protocol):
    """A network that has features: a module whose ``forward(x)`` is ``with_features(x).logits``."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def with_features(self, x: Tensor) -> Features: ...


def features_of(name: str, network: object, x: Tensor) -> Features:
    """Return ``network.with_features(x)``. Raises TypeError naming ``name`` where the network offers none."""
    if not isinstance(network, Featured):
        raise TypeError(f"{name} must have with_features(x), which gives its maps; got {type(network).__name__}")
    return network.with_features(x)


def observe(name: str, network: Callable[[Tensor], Tensor], x: Tensor, *, deep: bool) -> Features:
    """Return the features of ``x``; with ``deep=False`` the logits alone, which are all that any network has."""
    if deep:
        return features_of(name, network, x)
    logits = network(x)
    return Features((), (), logits[:, :0], logits)
