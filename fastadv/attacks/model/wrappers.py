"""Models as attacks want them: of pixels, to logits. Normalize, Normalized and Logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """``(x - mean) / std`` for each channel of ``x`` [N, C, H, W].

    mean, std: a number for each channel, or one for all; they are constants, no part of a state_dict.

    Raises ValueError where they differ in length or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.as_tensor(value, dtype=torch.float32).flatten() for value in (mean, std))
        if len(means) != len(stds) or not bool((stds > 0).all()):
            raise ValueError(f"mean, std: {mean}, {std}, expected one value a channel and std > 0")
        self.register_buffer("mean", means.view(-1, 1, 1), persistent=False)
        self.register_buffer("std", stds.view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Normalized(nn.Module):
    """``model((x - mean) / std)``: a model of normalised images as one of pixels in [0, 1], which attacks take.

    Args:
        model: a module, or any callable, of normalised images [N, C, H, W]. The constants get device and dtype of a
            module's parameters.
        mean, std: of the normalisation, see :class:`fastadv.attacks.model.wrappers.Normalize`.

    Raises ValueError where mean and std differ in length or a deviation is not positive.
    """

    def __init__(
        self, model: Callable[[Tensor], Any], mean: float | Sequence[float], std: float | Sequence[float]
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        if isinstance(model, nn.Module):
            parameters = (each for each in model.parameters() if each.is_floating_point())
            if (first := next(parameters, None)) is not None:
                self.normalize.to(first)
        self.network = model

    def forward(self, x: Tensor) -> Any:
        return self.network(self.normalize(x))


class Logits(nn.Module):
    """``model(x).key`` or ``model(x)[key]``: the logits of a model that answers with a dataclass, a dict or a tuple.

    Args:
        model: a module, or any callable.
        key: the name of an attribute or an entry, or an index.
    """

    def __init__(self, model: Callable[[Tensor], Any], key: str | int = "logits") -> None:
        super().__init__()
        self.network = model
        self.key = key

    def forward(self, x: Tensor) -> Tensor:
        output = self.network(x)
        if isinstance(self.key, str) and hasattr(output, self.key):
            return getattr(output, self.key)
        return output[self.key]

    def extra_repr(self) -> str:
        return f"key={self.key!r}"
