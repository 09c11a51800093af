"""The features of any module, by forward hooks: Hooked."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastadv.distill.parts.features import Features, logits_of


class Hooked(nn.Module):
    """``model`` with ``with_features(x)``, which methods that compare more than logits ask of a network.

    Its maps are the outputs [N, C, H, W] of the modules ``layers``, by their names in ``model.named_modules()``, from
    the largest to the smallest; of a ReLU its input is the preactivation, of another module the map itself. Calling it
    gives the model's logits, or the ``logits`` of an output that holds more.

    Args:
        model: any classifier of images x [N, ...], such as timm's, torchvision's or transformers'.
        layers: names of modules, each called once in a forward.
        penultimate: the name of the module whose output, flattened, is the embedding [N, D]; None takes the input of
            the model's last ``nn.Linear``.

    Raises:
        TypeError: model is no module, layers are no names.
        ValueError: a name is no module's; the model has no ``nn.Linear`` and penultimate is None; at a call, a layer
            that was not called, or called more than once, or without a tensor as its first argument, whose output is
            no map (of penultimate: no tensor), or is overwritten in place.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], penultimate: str | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a module, got {type(model).__name__}")
        self.model = model
        names = dict(model.named_modules())
        if not isinstance(layers, Sequence) or not all(isinstance(name, str) for name in layers):
            raise TypeError(f"layers must be names of modules, got {layers!r}")
        self.layers = tuple(layers)
        if isinstance(layers, str) or not self.layers:
            raise ValueError(f"layers must be names of modules, got {layers!r}")
        for name in (*self.layers, *([] if penultimate is None else [penultimate])):
            if name not in names:
                near = difflib.get_close_matches(name, names, n=3) or [each for each in names if each]
                raise ValueError(f"{name!r} is no module of {type(model).__name__}; near are {', '.join(near[:20])}")
        self.penultimate = penultimate
        linear = [name for name, module in names.items() if isinstance(module, nn.Linear)]
        if penultimate is None and not linear:
            raise ValueError(f"penultimate must be named: {type(model).__name__} has no nn.Linear")
        self._head = linear[-1] if penultimate is None else penultimate

    @property
    def layers_read(self) -> tuple[str, ...]:
        """The paths of the modules whose outputs are features: :func:`fastadv.attacks.freeze` folds nothing into them.

        The head is read at its input.
        """
        names = (*self.layers, *([] if self.penultimate is None else [self.penultimate]))
        return tuple(f"model.{name}" for name in names)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, classes] of ``x`` [N, ...]."""
        return logits_of(self.model(x))

    def with_features(self, x: Tensor) -> Features:
        """Return maps, preactivations, embedding and logits of ``x`` [N, ...]."""
        with self._recorded() as records:
            logits = logits_of(self.model(x))
        calls = {name: record.only() for name, record in records.items()}
        layers = [calls[name] for name in self.layers]
        for name, call in zip(self.layers, layers, strict=True):
            call.check_map(name)
        head = calls[self._head]
        if self.penultimate is None:
            embedding = head.before
        else:
            head.check_kept(self.penultimate)
            embedding = head.after
        maps = tuple(call.after for call in layers)
        return Features(maps, tuple(call.preactivation for call in layers), embedding.flatten(1), logits)

    def shapes(self, x: Tensor) -> dict[str, tuple[int, ...]]:
        """Return the shape of each layer's map for ``x``, of "embedding" and of "logits"; modes and buffers stay."""
        from fastadv.attacks.model.guard import evaluating

        with evaluating([self.model]), torch.no_grad():
            shown = self.with_features(x)
        shapes = {name: tuple(each.shape) for name, each in zip(self.layers, shown.maps, strict=True)}
        return {**shapes, "embedding": tuple(shown.embedding.shape), "logits": tuple(shown.logits.shape)}

    def extra_repr(self) -> str:
        return f"layers={list(self.layers)}, penultimate={self.penultimate!r}"

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[dict[str, _Record]]:
        """Record the calls of the layers and of the head inside."""
        records = {name: _Record(name) for name in dict.fromkeys((*self.layers, self._head))}
        handles = []
        try:
            for name, record in records.items():
                module = self.model.get_submodule(name)
                handles += [
                    module.register_forward_pre_hook(record.note_input),
                    module.register_forward_hook(record.note_output),
                ]
            yield records
        finally:
            for handle in handles:
                handle.remove()


class _Call(NamedTuple):
    """A call of ``module``: its input, its output, and how often that had been written to by then, where it counts."""

    module: nn.Module
    before: Tensor
    after: Tensor
    version: int | None

    @property
    def preactivation(self) -> Tensor:
        return self.before if isinstance(self.module, nn.ReLU) else self.after

    def check_map(self, name: str) -> None:
        if self.after.dim() != 4:
            raise ValueError(f"layer {name!r} gives {list(self.after.shape)}, expected a map [N, C, H, W]")
        self.check_kept(name)

    def check_kept(self, name: str) -> None:
        if _version(self.after) != self.version:
            raise ValueError(f"layer {name!r}: its output is overwritten in place by what follows; name that module")


class _Record:
    """The calls of one module."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._input: Tensor | None = None
        self._calls: list[_Call] = []

    def note_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor):
            raise ValueError(f"layer {self._name!r} is called without a tensor as its first argument; name another")
        # An in-place ReLU leaves nothing of its input.
        self._input = args[0].clone() if getattr(module, "inplace", False) else args[0]

    def note_output(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        assert self._input is not None
        if not isinstance(output, Tensor):
            raise ValueError(f"layer {self._name!r} gives a {type(output).__name__}, expected a tensor; name another")
        self._calls.append(_Call(module, self._input, output, _version(output)))

    def only(self) -> _Call:
        if len(self._calls) != 1:
            raise ValueError(f"layer {self._name!r} was called {len(self._calls)} times in a forward, expected once")
        return self._calls[0]


def _version(output: Tensor) -> int | None:
    """How often ``output`` was written to; None in inference mode, where tensors do not count it."""
    return None if output.is_inference() else output._version
