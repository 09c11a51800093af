"""A whole attack as one CUDA graph: capture."""

from __future__ import annotations

import contextlib
import gc
import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.loop import noise
from fastadv.attacks.model.found_modules import modules_in
from fastadv.attacks.model.networks import KeepMode, Network, Networks
from fastadv.ops import checks, dispatch

# cuDNN and cuBLAS choose algorithms and allocate workspaces in their first runs, which a graph must not record.
_WARM_UPS = 3

# Batches alike are attacked on a few networks; with more graphs than that, the callable is likely made anew each time.
_MANY = 8


def capture(attack: Callable[..., Any]) -> Captured:
    """Make ``attack`` one CUDA graph for each shape of batch: ``capture(PGD(eps=8 / 255))(model, x, y)``.

    The first batch of a shape is attacked a few times to warm up, which leaves no trace, and then recorded; from then
    on the host launches one graph instead of every kernel of every step. Recorded are the shape, dtype and layout of
    the batch, the caller's autocast state, the backend of :func:`fastadv.use_backend` and the addresses of the model's
    parameters and buffers: values that change in place (an optimiser's step, ``frozen.refresh()``) are seen, another
    address means another graph, and so does another callable: make a lambda once, and not at each call. Every graph
    keeps its memory. A callable loss is recorded as it is, and so are tensors among the keywords that the attack was
    configured with; those that are given at a call are copied into the graph.

    The seed is a tensor on the device: call k draws the noise of ``seed + k``, of the seed that ``attack`` was
    configured with or, without one, of one derived as in :func:`fastadv.attacks.pgd`. A call that is given a seed draws
    the noise of that, and does not count.

    On a CPU there are no CUDA graphs: the loop runs eagerly, with the same seeds, and says so in a warning at the first
    call and in :attr:`Captured.eager`.

    Args:
        attack: an object such as :class:`fastadv.attacks.PGD`, a functools.partial of one of the functions, or any
            callable of (model, x, y, seed=...), or of (model, x, y) where it draws nothing, that gives a tensor or a
            tuple of them.

    Returns:
        A callable of (model, x, y) that gives adversarial images of its own memory.

    Raises:
        TypeError: attack is not callable.
        ValueError: attack has numbers of steps a sample, which lie in the host's memory, or stops early or checks
            values, which reads them back.
        CaptureError: at the first call, with the reason, when the model or its loss does what no graph can hold, such
            as reading a value back.
    """
    return Captured(attack)


class CaptureError(RuntimeError):
    """An attack on these networks cannot be a CUDA graph."""


def why_eager(device: torch.device) -> str | None:
    """Return the reason why attacks on ``device`` are not captured; None where they are."""
    return None if device.type == "cuda" else f"there are no CUDA graphs on {device}"


class Captured:
    """The attack that :func:`capture` returns.

    Attributes:
        attack: the attack that was captured.
        eager: why the last call ran eagerly; None where it replayed a graph or there was no call.
    """

    def __init__(self, attack: Callable[..., Any]) -> None:
        if not callable(attack):
            raise TypeError(f"attack must be callable, got {type(attack).__name__}")
        keywords = getattr(attack, "keywords", {})
        _check_keywords(keywords)
        self.attack = attack
        self.eager: str | None = None
        self._draws = _takes_a_seed(attack)
        self._seed = keywords.get("seed")
        self._seeds: dict[torch.device, Tensor] = {}
        self._graphs: dict[Any, tuple[_Graph, Any]] = {}
        self._told_of_many = False

    @property
    def graphs(self) -> int:
        """The number of graphs that have been recorded."""
        return len(self._graphs)

    def __call__(self, model: Network | Sequence[Network], x: Tensor, y: Tensor | None = None, **changes: Any) -> Any:
        """Attack ``model`` at ``x``, with ``y`` where it takes one; ``changes`` replace keywords this once.

        The seed and tensors among the changes may be others at each call; another value of the rest means another
        graph. Raises TypeError for a value that is neither a tensor nor hashable.
        """
        _check_keywords(changes)
        for name, value in changes.items():
            if not isinstance(value, Hashable):
                found = type(value).__name__
                raise TypeError(f"{name} must be a tensor or hashable for a captured attack, got {found}")
        checks.samples("x", x)
        own_seed = None
        if self._draws and changes.get("seed") is None:
            own_seed = changes["seed"] = self._seed_on(x)
        elif "seed" in changes:
            changes["seed"] = _on_device(changes["seed"], x)
        inputs = {"x": x} if y is None else {"x": x, "y": y}
        inputs.update({name: value for name, value in changes.items() if isinstance(value, Tensor)})
        values = {name: value for name, value in changes.items() if name not in inputs}

        def run(x: Tensor, y: Tensor | None = None, **tensors: Tensor) -> Any:
            labels = () if y is None else (y,)
            return self.attack(model, x, *labels, **values, **tensors)

        reason = why_eager(x.device)
        if reason is not None:
            self._say(f"{reason}, the loop runs eagerly")
            attacked = run(**inputs)
        else:
            self.eager = None
            attacked = self._graph(model, run, inputs, values).replay(inputs)
        if own_seed is not None:
            own_seed.add_(1)
        return attacked

    def __repr__(self) -> str:
        state = f"{self.graphs} graphs" if self.eager is None else self.eager
        return f"<capture({self.attack!r}): {state}>"

    def _say(self, reason: str) -> None:
        if self.eager is None:
            warnings.warn(f"capture: {reason}", stacklevel=3)
        self.eager = reason

    def _seed_on(self, x: Tensor) -> Tensor:
        if x.device not in self._seeds:
            # A tensor of inference mode could not be counted up outside of it.
            with torch.inference_mode(False):
                self._seeds[x.device] = _on_device(noise.resolve(self._seed), x).clone()
        return self._seeds[x.device]

    def _graph(
        self, model: Any, run: Callable[..., Any], inputs: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> _Graph:
        """Return the graph of ``run`` on such inputs, recorded unless it is there."""
        members, device = Networks(model).members, inputs["x"].device
        traits = frozenset((name, _traits(given)) for name, given in inputs.items())
        key = (_memory_of(members), traits, frozenset(values.items()), _autocast(device.type), dispatch.forced())
        if key not in self._graphs:
            stateful = [member.network for member in members if isinstance(member, KeepMode)]
            try:
                # The members are kept with their graph, so that nothing else gets their addresses.
                self._graphs[key] = _Graph(run, inputs, stateful), members
            except RuntimeError as error:
                raise CaptureError(f"{self.attack!r} cannot be captured on {device}: {error}") from error
            self._tell_of_many(alike=sum(other[1:] == key[1:] for other in self._graphs))
        return self._graphs[key][0]

    def _tell_of_many(self, alike: int) -> None:
        if alike > _MANY and not self._told_of_many:
            self._told_of_many = True
            warnings.warn(
                f"capture: {alike} graphs of batches alike, each of another model, and each keeps its memory; where "
                "the model is a callable, make it once: a lambda or a partial made at each call is another each time",
                stacklevel=4,
            )


class _Graph:
    """A recorded run on buffers of its own.

    stateful: networks whose buffers and random draws a run may move.
    """

    def __init__(self, run: Callable[..., Any], inputs: Mapping[str, Tensor], stateful: Sequence[Network]) -> None:
        # Later calls write to these, inside of inference mode or outside.
        with torch.inference_mode(False):
            self._inputs = {name: given.detach().clone() for name, given in inputs.items()}
        with _undisturbed(stateful, inputs["x"].device):
            self._warm_up(run)
        self._record(run)

    def replay(self, inputs: Mapping[str, Tensor]) -> Any:
        for name, mine in self._inputs.items():
            mine.copy_(inputs[name].detach())
        self._graph.replay()
        # A later replay overwrites what is in the graph's memory.
        return self._output.clone() if isinstance(self._output, Tensor) else tuple(map(torch.clone, self._output))

    def _record(self, run: Callable[..., Any]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._inputs["x"].device), recording(self._graph, self._stream):
            self._output = run(**self._inputs)

    def _warm_up(self, run: Callable[..., Any]) -> None:
        with torch.cuda.device(self._inputs["x"].device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            # The recording's too: the default one of torch.cuda.graph may lie on another device.
            self._stream = side
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    run(**self._inputs)
                # What would break the recording is told here, with the name of what waits.
                mode = torch.cuda.get_sync_debug_mode()
                torch.cuda.set_sync_debug_mode("error")
                try:
                    run(**self._inputs)
                finally:
                    torch.cuda.set_sync_debug_mode(mode)
            current.wait_stream(side)


@contextlib.contextmanager
def recording(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """Record into ``graph`` on ``stream``; afterwards the current stream is what it was, also where that failed.

    Python collects no garbage meanwhile: a tensor or graph that dies while another is recorded may free memory, which
    no recording survives.
    """
    before, collects = torch.cuda.current_stream(), gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        # Other threads, a data loader's among them, may go on using the device while this one records.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            yield
    finally:
        # torch.cuda.graph leaves its stream current where ending the capture raises.
        torch.cuda.set_stream(before)
        if collects:
            gc.enable()


@contextlib.contextmanager
def _undisturbed(networks: Sequence[Network], device: torch.device) -> Iterator[None]:
    """Give the networks' buffers and the global random state back afterwards, as they were."""
    modules = [module for network in networks for module in modules_in(network)]
    kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)


def _check_keywords(keywords: Mapping[str, Any]) -> None:
    if isinstance(keywords.get("steps"), Tensor):
        raise ValueError("attack cannot be captured: its steps are a tensor in the host's memory; give it an int")
    if keywords.get("check"):
        raise ValueError("attack cannot be captured: check=True reads values back")
    if keywords.get("stop_early"):
        raise ValueError("attack cannot be captured: stop_early=True reads a value at each step")


def _takes_a_seed(attack: Callable[..., Any]) -> bool:
    parameters = inspect.signature(attack).parameters
    return "seed" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _on_device(seed: int | Tensor, x: Tensor) -> Tensor:
    """Return ``seed`` as a tensor beside ``x``, without waiting for the device."""
    number, tensor = checks.seed(seed, x)
    return torch.full((), number, dtype=torch.int64, device=x.device) if tensor is None else tensor


def _memory_of(members: tuple[Network, ...]) -> tuple[Any, ...]:
    """Return the addresses and the modes that a graph of ``members`` depends on."""
    read: list[Any] = []
    for member in members:
        network = member.network if isinstance(member, KeepMode) else member
        # Of a method each access makes a new object.
        read += (id(network.__self__), network.__func__) if isinstance(network, MethodType) else (id(network),)
        for module in modules_in(network):
            read += (tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers()))
            # Attacks put others in eval mode.
            read.append(member is not network and tuple(each.training for each in module.modules()))
    return tuple(read)


def _traits(x: Tensor) -> tuple[Any, ...]:
    return x.device, x.dtype, x.shape, x.stride()


def _autocast(device_type: str) -> tuple[Any, ...]:
    return torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
