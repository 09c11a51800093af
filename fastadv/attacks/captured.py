"""A whole attack as one CUDA graph: capture."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import seeds
from fastadv.attacks.networks import Network, Networks
from fastadv.ops import checks

# cuDNN and cuBLAS choose algorithms and allocate workspaces in their first runs, which a graph must not record.
_WARM_UPS = 3


def capture(attack: Callable[..., Tensor]) -> Captured:
    """``attack`` as one CUDA graph for each shape of batch: ``capture(PGD(eps=8 / 255))(model, x, y)``.

    The first batch of a shape is attacked a few times to warm up and then recorded; from then on the host launches one
    graph instead of every kernel of every step. Recorded are the shape, dtype and layout of the batch, the caller's
    autocast state and the addresses of the model's parameters and buffers: values that change in place
    (an optimiser's step, ``frozen.refresh()``) are seen, another address means another graph. Every graph keeps its
    memory. A callable loss and tensors among the keywords are recorded as they are, with the tensors they hold.

    The seed is a tensor on the device that a replay advances: call k draws the noise of ``seed + k``, of the seed that
    ``attack`` was configured with or, without one, of one derived as in :func:`fastadv.attacks.pgd`.

    On a CPU there are no CUDA graphs: the loop runs eagerly, with the same seeds, and says so in a warning at the first
    call and in :attr:`Captured.eager`.

    Args:
        attack: an object such as :class:`fastadv.attacks.PGD`, a functools.partial of one of the functions, or any
            callable of (model, x, y, seed=...), or of (model, x, y) where it draws nothing.

    Returns:
        A callable of (model, x, y) that gives adversarial images of its own memory.

    Raises:
        TypeError: attack is not callable.
        ValueError: attack has numbers of steps a sample, which lie in the host's memory.
        RuntimeError: at the first call, with the reason, when the model or its loss does what no graph can hold, such
            as reading a value back.
    """
    return Captured(attack)


class Captured:
    """What :func:`capture` returns.

    Attributes:
        attack: what was captured.
        eager: why the last call ran eagerly; None where it replayed a graph or there was no call.
    """

    def __init__(self, attack: Callable[..., Tensor]) -> None:
        if not callable(attack):
            raise TypeError(f"attack must be callable, got {type(attack).__name__}")
        keywords = getattr(attack, "keywords", {})
        if isinstance(keywords.get("steps"), Tensor):
            raise ValueError("attack cannot be captured: its steps are a tensor in the host's memory; give it an int")
        self.attack = attack
        self.eager: str | None = None
        self._draws = _takes_a_seed(attack)
        self._seed = keywords.get("seed")
        self._seeds: dict[torch.device, Tensor] = {}
        self._graphs: dict[Any, tuple[_Graph, Any]] = {}

    @property
    def graphs(self) -> int:
        """How many graphs have been recorded."""
        return len(self._graphs)

    def __call__(self, model: Network | Sequence[Network], x: Tensor, y: Tensor | None = None) -> Tensor:
        """The attack on ``model`` and ``x``, with ``y`` where it takes one."""
        seed = self._seed_on(x)

        def run(x: Tensor, y: Tensor | None, seed: Tensor) -> Tensor:
            labels = () if y is None else (y,)
            noise = {"seed": seed} if self._draws else {}
            return self.attack(model, x, *labels, **noise)

        if not _has_graphs(x.device):
            self._say(f"there are no CUDA graphs on {x.device}, the loop runs eagerly")
            attacked = run(x, y, seed)
            seed.add_(1)
            return attacked
        self.eager = None
        members = Networks(model).members
        key = (_memory_of(members), _traits(x), None if y is None else _traits(y), _autocast(x.device.type))
        if key not in self._graphs:
            try:
                # The members are kept with their graph, so that nothing else gets their addresses.
                self._graphs[key] = _Graph(run, x, y, seed), members
            except RuntimeError as error:
                raise RuntimeError(f"{self.attack!r} cannot be captured on {x.device}: {error}") from error
        return self._graphs[key][0].replay(x, y)

    def __repr__(self) -> str:
        state = f"{self.graphs} graphs" if self.eager is None else self.eager
        return f"<capture({self.attack!r}): {state}>"

    def _say(self, reason: str) -> None:
        if self.eager is None:
            warnings.warn(f"capture: {reason}", stacklevel=3)
        self.eager = reason

    def _seed_on(self, x: Tensor) -> Tensor:
        if x.device not in self._seeds:
            number, tensor = checks.seed(seeds.resolve(self._seed), x)
            self._seeds[x.device] = torch.tensor(number, device=x.device) if tensor is None else tensor.clone()
        return self._seeds[x.device]


class _Graph:
    """A recorded run on buffers of its own."""

    def __init__(self, run: Callable[..., Tensor], x: Tensor, y: Tensor | None, seed: Tensor) -> None:
        self._inputs = [None if given is None else given.detach().clone() for given in (x, y)]
        with torch.cuda.device(x.device):
            self._warm_up(run, seed)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads, a data loader's among them, may go on using the device while this one records.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output = run(*self._inputs, seed)
                seed.add_(1)

    def replay(self, x: Tensor, y: Tensor | None) -> Tensor:
        for mine, given in zip(self._inputs, (x, y), strict=True):
            if mine is not None:
                mine.copy_(given.detach())  # type: ignore[union-attr]
        self._graph.replay()
        return self._output.clone()

    def _warm_up(self, run: Callable[..., Tensor], seed: Tensor) -> None:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run(*self._inputs, seed.clone())
            # What would break the recording is told here, with the name of what waits.
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                run(*self._inputs, seed.clone())
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        current.wait_stream(side)


def _takes_a_seed(attack: Callable[..., Tensor]) -> bool:
    parameters = inspect.signature(attack).parameters
    return "seed" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def _memory_of(members: tuple[Network, ...]) -> tuple[Any, ...]:
    """Which memory a graph of ``members`` reads."""
    modules = [member for member in members if isinstance(member, nn.Module)]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return *(id(member) for member in members), *(tensor.data_ptr() for tensor in tensors)


def _traits(x: Tensor) -> tuple[Any, ...]:
    return x.device, x.dtype, x.shape, x.stride()


def _autocast(device_type: str) -> tuple[Any, ...]:
    return torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
