"""A network that computes in a precision of its own and gives float32, or float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.distill.parts.features import Features, features_of, logits_of
from fastadv.numerics import accumulate

# By the names that configurations use.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# Shapes and modes of all networks of a process that torch compiles; by its own limit of 8 a run of many methods fails.
_COMPILED_SHAPES = 256


class CompileError(RuntimeError):
    """torch.compile cannot take the network."""


class Float32Output(nn.Module):
    """``network`` as a method sees it: its output is float32 (float64 stays), as losses and connectors are computed.

    Where the gradient by the images is asked for, logits come in the network's own dtype: attacks scale what float16
    cannot hold. Of an output with ``logits``, such as those of transformers, it gives these.

    autocast: the dtype in which the network runs under autocast; None leaves it to its weights and to the autocast of
        the caller.
    compiled: run it through torch.compile, as one graph, each shape of images for itself: what a step computes does not
    depend on the shapes before it.

    Raises CompileError at a call where the compiler fails.
    """

    def __init__(self, network: nn.Module, *, autocast: torch.dtype | None = None, compiled: bool = False) -> None:
        super().__init__()
        self.network = network
        self._autocast = autocast
        self._logits: Callable[[Tensor], Tensor] = self._network_logits
        self._features: Callable[[Tensor], Features] = self._network_features
        if compiled:
            self._logits, self._features = compiled_whole(self._logits), compiled_whole(self._features)

    def forward(self, x: Tensor) -> Tensor:
        with self._context(x):
            logits = self._logits(x)
        return logits if x.requires_grad else accumulate(logits)

    def with_features(self, x: Tensor) -> Features:
        """Return the network's; TypeError where it has none."""
        with self._context(x):
            maps, preactivations, embedding, logits = self._features(x)
        return Features(
            tuple(map(accumulate, maps)),
            tuple(map(accumulate, preactivations)),
            accumulate(embedding),
            logits if x.requires_grad else accumulate(logits),
        )

    def _network_logits(self, x: Tensor) -> Tensor:
        return logits_of(self.network(x))

    def _network_features(self, x: Tensor) -> Features:
        return features_of("network", self.network, x)

    def _context(self, x: Tensor) -> contextlib.AbstractContextManager[Any]:
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, dtype=self._autocast)


def compiled_whole(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Return ``function``, of images, through torch.compile: one graph, and each shape of images for itself.

    Raises CompileError at a call where the compiler fails.
    """
    compiled = torch.compile(function, fullgraph=True, dynamic=False)

    def call(x: Tensor) -> Any:
        try:
            with torch._dynamo.config.patch(recompile_limit=_COMPILED_SHAPES):
                return compiled(x)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise CompileError(f"compile: True, but torch.compile fails on the network: {reason}") from error

    return call
