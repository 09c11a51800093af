"""Pairs of feature maps of two networks: chosen by layer, and brought to one size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fastadv.distill.parts.features import Features
from fastadv.numerics import accumulate

Pair = tuple[Tensor, Tensor]


def layer_index(name: str, layer: int) -> int:
    """Return ``layer``, an int that indexes ``Features.maps``, from their end where it is negative."""
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise TypeError(f"{name} must be an int, got {type(layer).__name__}")
    return layer


def layer_indices(name: str, layers: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return ``layers``, at least one, as a tuple; None stands for every map but the stem's."""
    if layers is None:
        return None
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise TypeError(f"{name} must be None or a sequence of ints, got {type(layers).__name__}")
    if not layers:
        raise ValueError(f"{name} must name one map or more, got {layers!r}")
    return tuple(layer_index(name, layer) for layer in layers)


def map_pair(student: Features, teacher: Features, layer: int, name: str = "layer") -> Pair:
    """Return map ``layer`` of student and teacher, in the precision that sums are taken in."""
    for owner, maps in (("student", student.maps), ("teacher", teacher.maps)):
        if not -len(maps) <= layer < len(maps):
            raise ValueError(f"{name} must index the {len(maps)} maps of the {owner}, got {layer}")
    return accumulate(student.maps[layer]), accumulate(teacher.maps[layer])


def map_pairs(student: Features, teacher: Features, layers: tuple[int, ...] | None) -> list[Pair]:
    """Return :func:`map_pair` of each of ``layers``."""
    if layers is None:
        counts = len(student.maps), len(teacher.maps)
        if counts[0] != counts[1]:
            raise ValueError(
                "layers must be given for networks with different numbers of maps, got {} of the student and {} of the"
                " teacher".format(*counts)
            )
        layers = tuple(range(1, counts[0]))
    return [map_pair(student, teacher, layer, "layers") for layer in layers]


def at_one_size(student: Tensor, teacher: Tensor) -> Pair:
    """Return two maps, the larger averaged down to the size of the smaller."""
    height, width = (min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return _shrunk(student, height, width), _shrunk(teacher, height, width)


def _shrunk(x: Tensor, height: int, width: int) -> Tensor:
    return x if x.shape[2:] == (height, width) else adaptive_avg_pool2d(x, (height, width))
