"""The networks under attack, as one function from images to logits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks.model import values
from fastadv.attacks.model.found_modules import LeftAlone, module_behind, modules_in, submodules, unwrapped
from fastadv.ops import checks

Network = Callable[[Tensor], Tensor]


class Networks:
    """One network or several attacked together; calling it gives the tuple of their outputs.

    The first outputs are checked for NaN and infinity, see :mod:`fastadv.attacks.model.values`.

    Args:
        model: a callable or a sequence of them.
        check: look at values on every device (True), on none (False), or on a CPU (None).

    Raises TypeError for what cannot be called, ValueError for an empty sequence.
    """

    def __init__(self, model: Network | Sequence[Network], check: bool | None = None) -> None:
        self.together = isinstance(model, (list, tuple, nn.ModuleList))
        members: Any = model if self.together else (model,)
        self.members = tuple(unwrapped(member) for member in members)
        if not self.members:
            raise ValueError("model must hold at least one network, got an empty sequence")
        for member in self.members:
            if not callable(member):
                raise TypeError(f"model must be a callable or a sequence of them, got {type(member).__name__}")
        self._dtypes = [_parameter_dtype(member) for member in self.members]
        self._check = check
        self._is_checked = False

    def __call__(self, x: Tensor, copies: int = 1) -> tuple[Any, ...]:
        """Return what the networks give for ``x`` [N * copies, ...], of whatever type."""
        outputs = tuple(
            member(x if dtype is None else x.to(dtype))
            for member, dtype in zip(self.members, self._dtypes, strict=True)
        )
        self._check_first(outputs, copies)
        return outputs

    def logits(self, x: Tensor, copies: int = 1) -> Tensor:
        """Return the logits [N * copies, C] of the only network for ``x`` [N * copies, ...].

        One logit z stands for the two classes of a sigmoid: it becomes [0, z]. Raises TypeError or ValueError where the
        output is no such logits.
        """
        (member,), (dtype,) = self.members, self._dtypes
        logits = check_logits("model", member(x if dtype is None else x.to(dtype)), x)
        self._check_first((logits,), copies)
        return logits if logits.shape[1] > 1 else two_classes(logits)

    def epsilon(self, logits: Tensor) -> float:
        """Return the machine epsilon of the coarsest dtype that the network of these logits computes in.

        The logits' own may be a finer one, to which the network casts in the end.
        """
        module, kind = module_behind(self.members[0]), logits.device.type
        dtypes = {logits.dtype, *(each.dtype for each in (() if module is None else module.parameters()))}
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            dtypes.add(torch.get_autocast_dtype(kind))
        return max(torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point)

    def check_finite(self, name: str, value: Tensor) -> None:
        """Raise NotFiniteError where ``value`` [N, ...] of the argument ``name`` is NaN or infinite, if looked at."""
        if values.readable(value, self._check):
            values.check_finite(name, value)

    def _check_first(self, outputs: tuple[Any, ...], copies: int) -> None:
        if self._is_checked:
            return
        self._is_checked = True
        for member, output in zip(self.members, outputs, strict=True):
            if isinstance(output, Tensor) and values.readable(output, self._check):
                values.check_output(output, functools.partial(modules_in, member), copies)


class KeepMode(LeftAlone):
    """A network that attacks leave in the mode it is in, instead of putting it in eval mode.

    In train mode it takes the statistics of the attacked batch, and each step moves BatchNorm's buffers.

    Attributes:
        network: the network itself, of a DistributedDataParallel the one inside.
    """

    def __init__(self, network: Network) -> None:
        self._networks = Networks(network, check=False)
        (self.network,) = self._networks.members

    def __call__(self, x: Tensor) -> Tensor:
        return self._networks(x)[0]


def check_logits(name: str, output: Any, x: Tensor) -> Tensor:
    """Return ``output`` of the network ``name`` for ``x`` [N, ...]; TypeError or ValueError unless it is logits [N, C].

    They are floating-point, with at least one class.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{name} must give logits [N, C], got {type(output).__name__}; wrap it with lambda x: {name}(x).logits, or "
            f"lambda x: {name}(x)[0] for a tuple, or fastadv.attacks.Logits({name}, key)"
        )
    if output.dtype not in checks.FLOATING:
        raise TypeError(f"{name} must give floating-point logits [N, C], got {output.dtype}")
    if output.dim() != 2 or output.shape[0] != x.shape[0] or not output.shape[1]:
        raise ValueError(f"{name} must give logits [{x.shape[0]}, C], got {list(output.shape)}")
    return output


def two_classes(logits: Tensor) -> Tensor:
    """Return the logits [0, z] of the two classes that one logit z, [N, 1], stands for."""
    return torch.cat((torch.zeros_like(logits), logits), 1)


def _parameter_dtype(member: Network) -> torch.dtype | None:
    module = module_behind(member)
    if module is None:
        return None
    for each in submodules(module):
        # What a frozen copy computes in float32 for the images' sake need not be its first parameter.
        if (images_dtype := vars(each).get("images_dtype")) is not None:
            return images_dtype
        for parameter in each._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter.dtype
    return None
