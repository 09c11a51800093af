"""Weights from checkpoint files of any layout."""

import pickle
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.distill import Hooked
from fastadv.train.runtime.checkpoint import why_refused
from fastadv.train.runtime.errors import CheckpointError
from fastadv.train.runtime.imports import require

# Names shown of each kind.
SHOWN = 4
# Keys of checkpoints under which averaged weights lie, such as "average" of ours and "state_dict_ema" of timm's.
_AVERAGED = re.compile(r"(^|_)(average|averaged|ema|swa)(_|$)")


def load_weights(network: nn.Module, path: Path, *, name: str | None = None) -> str | None:
    """Load the weights in ``path`` into ``network``, which messages call ``name``; None is its class.

    Of a :class:`fastadv.distill.Hooked` they are its model's. The file is one of torch.save or a .safetensors. Its
    weights are found by one rule: of dictionaries in each other, the one that fits best; of its entries those that are
    tensors; without the prefixes that all their names share, such as "module.", "model." or "_orig_mod.". Of several
    that fit as well averaged ones come before others, then the first. What else lies beside them, such as an
    optimizer's state, is passed over.

    Returns, and prints, which was taken where others that fit as well are others; None where there was no choice.
    Raises CheckpointError where the file is missing, damaged, or something else than a checkpoint, where it holds code,
    where no dictionary of it fits, and where weights are not finite.
    """
    name = name or type(network).__name__
    if isinstance(network, Hooked):
        network = network.model
    wanted = network.state_dict().keys()
    candidates = [(place, _unprefixed(table, wanted)) for place, table in _tables(_read(path))]
    if not candidates:
        raise CheckpointError(f"{path}: holds no weights")
    best = max(len(table.keys() & wanted) for _, table in candidates)
    fitting = [(place, table) for place, table in candidates if len(table.keys() & wanted) == best]
    # The sort keeps the order of those that are alike.
    fitting.sort(key=lambda each: not any(map(_AVERAGED.search, each[0])))
    (taken, weights), *others = fitting
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes that differ
        raise CheckpointError(f"{path}: no weights for {name} ({why_refused(error)})") from error
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: no weights for {name}: missing {_listed(missing)}; unexpected {_listed(unexpected)}"
        )
    broken = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(f"{path}: weights that are not finite: {_listed(broken)}")
    differing = [".".join(place) for place, table in others if not _same(table, weights, wanted)]
    if not differing:
        return None
    choice = f"those of {'.'.join(taken)}, not of {', '.join(differing)}"
    print(f"{path}: the weights are {choice}", flush=True)
    return choice


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], names: Set[str]) -> bool:
    """Return whether two tables have the same values of ``names``."""
    return all(torch.equal(one[name], other[name]) for name in names & one.keys() & other.keys())


def _read(path: Path) -> Any:
    """Read the file. Raises CheckpointError saying what it is, where it is no checkpoint."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if what := _something_else(head):
        raise CheckpointError(f"{path}: {what}, no checkpoint")
    try:
        if path.suffix == ".safetensors":
            return require("safetensors.torch", "a .safetensors file", install="safetensors").load_file(path)
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(f"{path}: holds {refused[1]}, which is not loaded; save the weights alone") from None
        raise CheckpointError(f"{path}: no weights ({why_refused(error)})") from error
    except Exception as error:  # torch raises several kinds for damaged files
        raise CheckpointError(f"{path}: no weights ({why_refused(error)})") from error


def _numpy_scalars() -> list[Any]:
    """List what a pickle calls for numpy's numbers: they are data, which torch does not know."""
    numpy = require("numpy", "a checkpoint with numbers of numpy")
    kinds = {type(numpy.dtype(name)) for name in ("bool", "int32", "int64", "float16", "float32", "float64")}
    scalar = numpy._core.multiarray.scalar
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), numpy.dtype, *kinds]


def _something_else(head: bytes) -> str | None:
    """Say what a file is by its beginning, where that is no checkpoint's."""
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, whose file was not fetched (git lfs pull)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    if not head.startswith((b"PK", b"\x80")) and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "a text file"
    return None


def _tables(content: Any, place: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """List the dictionaries of tensors in ``content``, itself included, each behind the keys that lead to it."""
    if not isinstance(content, Mapping):
        return []
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    inner = [found for key, value in content.items() for found in _tables(value, (*place, str(key)))]
    return [(place, own), *inner] if own else inner


def _unprefixed(table: dict[str, Tensor], wanted: Set[str]) -> dict[str, Tensor]:
    """Strip the prefix with which most names are wanted; counters beside such names are passed over."""
    parts = {key[: match.end()] for key in table for match in re.finditer(r"\.", key)}
    prefix = max(["", *sorted(parts, key=len)], key=lambda start: sum(start + key in table for key in wanted))
    if not any(prefix + key in table for key in wanted):
        prefix = ""
    inside = {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}
    beside = {key: value for key, value in table.items() if not key.startswith(prefix) and value.dim()}
    return {**inside, **beside}


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return (f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown) or "nothing"
