"""Features of a network, for losses that compare more than logits."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastadv.attacks.model.networks import check_logits


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
    """Return ``network.with_features(x)``, of what torch.compile or DistributedDataParallel wraps that of the inside.

    Under DistributedDataParallel the call goes through its forward, so that gradients are synchronised.

    Raises TypeError naming ``name`` where the network offers none.
    """
    network = getattr(network, "_orig_mod", network)  # of a module that torch.compile made
    if isinstance(network, DistributedDataParallel):
        return _through_wrapper(name, network, x)
    if not isinstance(network, Featured):
        raise TypeError(
            f"{name} must have with_features(x), which gives its maps; got {type(network).__name__}. "
            "fastadv.distill.Hooked(network, layers=[...]) takes them from any module"
        )
    return network.with_features(x)


def observe(name: str, network: Callable[[Tensor], Tensor], x: Tensor, *, deep: bool) -> Features:
    """Return the features of ``x``; with ``deep=False`` the logits alone, which are all that any network has."""
    if deep:
        return features_of(name, network, x)
    logits = logits_from(name, network, x)
    return Features((), (), logits[:, :0], logits)


def logits_from(name: str, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``network(x)``; TypeError or ValueError naming ``name`` unless it is logits [N, C] with C > 1."""
    logits = check_logits(name, network(x), x)
    if logits.shape[1] < 2:
        raise ValueError(
            f"{name} must give logits [N, C] with C > 1, got {list(logits.shape)}; one logit z is [0, z] of two classes"
        )
    return logits


@contextlib.contextmanager
def attacked_as(name: str) -> Iterator[None]:
    """Let an error of an attack, about what its ``model`` gives, speak of ``name``, which it is of a method."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith("model must give"):
            raise
        raise type(error)(re.sub(r"\bmodel\b", name, str(error))) from error


def logits_of(output: object) -> Tensor:
    """Return ``output`` or, of an output that holds ``logits`` beside others, these. TypeError where there are none."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"a network must give logits [N, C], or an output that has .logits; got {type(output).__name__}"
        )
    return logits


def _through_wrapper(name: str, wrapper: DistributedDataParallel, x: Tensor) -> Features:
    inside: nn.Module = wrapper.module
    # A module that torch.compile made has a forward of its own beside that of its class, and so have patched ones.
    own = {key: value for key, value in vars(inside).items() if key == "forward"}

    def give_back() -> None:
        vars(inside).pop("forward", None)
        vars(inside).update(own)

    def features_instead(images: Tensor) -> Features:
        give_back()
        return features_of(name, inside, images)

    # Hides its forward from this one call.
    inside.forward = features_instead
    try:
        return wrapper(x)
    finally:
        give_back()
