"""Find the BatchNorms of a network that can be folded, and the layer through which images enter, by tracing it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fastadv.attacks.model.image_conv import ImageConv2d
from fastadv.numerics import accumulate

# Exact types: what inherits from them, parametrised layers among others, may compute something else.
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, ImageConv2d, *_TRANSPOSED)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Pair(NamedTuple):
    """A convolution or linear layer and the BatchNorm that alone sees its output, by their paths in the network."""

    layer: str
    norm: str


class FoldPlan(NamedTuple):
    """The findings of :func:`plan_folding`, by path.

    ``pairs`` can be folded; every other BatchNorm is ``kept`` for a reason, and ``untraced`` modules have one too.
    ``entry`` is the one layer through which images enter, after operations on them with the tensors ``before`` it.
    """

    pairs: tuple[Pair, ...]
    kept: dict[str, str]
    untraced: dict[str, str]
    entry: str | None
    before: frozenset[str]


class Folded(nn.Module):
    """The identity in place of a BatchNorm that is now part of ``layer``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.after_linear = isinstance(layer, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        if self.after_linear and x.dim() != 2:
            raise ValueError(
                f"a folded BatchNorm after a linear layer takes [N, C], got {list(x.shape)}: its channels are not the"
                " features of the layer; freeze with fold_batchnorm=False"
            )
        return x


def plan_folding(network: nn.Module) -> FoldPlan:
    """Find what can be folded in ``network``, which is left as it is.

    Where symbolic tracing cannot follow a module (a branch on a value, say), its parts are traced one by one, and the
    network around it as if the module were a single layer. Nothing is folded into a layer whose output has a reader
    that no trace shows: a module's ``layers_read``, paths inside of it, as :class:`fastadv.distill.Hooked` has them; or
    the module that could not be traced, which may run the layers of an ``nn.Sequential`` one by one.
    """
    graphs, untraced = _graphs(copy.deepcopy(network).eval())  # a forward may leave something behind in its module
    calls = _Calls(graphs, untraced)
    alone = {path for path, _ in graphs if path and _may_be_taken_apart(path, network)}
    read = {_join(path, name) for path, each in network.named_modules() for name in getattr(each, "layers_read", ())}
    pairs, kept = [], {}
    for path, norm in network.named_modules():
        if not isinstance(norm, _BatchNorm):
            continue
        layer, reason = calls.layer_before(path)
        reason = _unfoldable(norm) or reason or _no_pair(network.get_submodule(layer), norm)
        reason = reason or (f"the output of {layer} is read as features" if layer in read else None)
        around = path.rpartition(".")[0]
        if around in alone and layer.rpartition(".")[0] == around:
            reason = reason or f"what runs {around} may use the output of {layer} as well{calls.why_untraced(around)}"
        for name in (path, layer):
            reason = reason or _entangled(name, network)
        if reason:
            kept[path] = reason
        else:
            pairs.append(Pair(layer, path))
    return FoldPlan(tuple(pairs), kept, untraced, *_entry(network, dict(graphs).get("")))


def folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of ``layer`` followed by ``norm`` in eval mode, in float32 or float64."""
    tensors = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    weight, bias, mean, variance, gain, shift = (None if x is None else accumulate(x.detach()) for x in tensors)
    assert weight is not None
    assert mean is not None
    assert variance is not None
    transposed = isinstance(layer, _TRANSPOSED)
    return fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, gain, shift, transposed)


def _entry(network: nn.Module, graph: fx.Graph | None) -> tuple[str | None, frozenset[str]]:
    """Return the path of the entry and the names of the tensors before it; no path where there is no one such layer."""
    nowhere: tuple[None, frozenset[str]] = (None, frozenset())
    if graph is None:
        return nowhere
    node = next(node for node in graph.nodes if node.op == "placeholder")
    before: set[str] = set()
    while True:
        users = [user for user in node.users if not _asks_for_the_shape(user)]
        if len(users) != 1 or users[0].op not in ("call_module", "call_function", "call_method"):
            return nowhere
        user, path = users[0], str(users[0].target)
        others = [source for source in user.all_input_nodes if source is not node]
        if any(source.op != "get_attr" for source in others):
            return nowhere
        before |= {str(source.target) for source in others}
        if user.op == "call_module":
            module = network.get_submodule(path)
            if type(module) in _LAYERS:
                once = sum(other.op == "call_module" and other.target == path for other in graph.nodes) == 1
                return (path, frozenset(before)) if once else nowhere
            if any(True for _ in module.parameters()):
                return nowhere
            before |= {_join(path, name) for name, _ in module.named_buffers()}
        node = user


def _asks_for_the_shape(node: fx.Node) -> bool:
    return node.target is getattr if node.op == "call_function" else node.target in ("size", "dim")


def _unfoldable(norm: Any) -> str | None:
    if type(norm) not in _NORMS:
        return f"it is a {type(norm).__name__}, which may compute more than BatchNorm"
    if norm.training:
        return "it is in train mode (call eval() on the model before freeze)"
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics"
    return None


def _no_pair(layer: Any, norm: Any) -> str | None:
    if type(layer) not in _LAYERS:
        return f"it follows a {type(layer).__name__}, no convolution or linear layer"
    if isinstance(layer, _TRANSPOSED) and layer.groups != 1:
        return "it follows a transposed convolution with groups"
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return None if outputs == norm.num_features else f"it normalises no channels of the {type(layer).__name__}"


def _may_be_taken_apart(path: str, network: nn.Module) -> bool:
    """Return whether a module that is not traced may run the layers of the one at ``path`` instead of the whole."""
    module, owner = (network.get_submodule(each) for each in (path, path.rpartition(".")[0]))
    if type(module).forward is not nn.Sequential.forward:
        return False
    # A wrapper of torch, as of DataParallel or torch.compile, runs the whole; others may say what they read.
    wraps = type(owner).__module__.startswith("torch.") and not isinstance(owner, (nn.ModuleList, nn.ModuleDict))
    return not (wraps or hasattr(owner, "layers_read"))


def _entangled(path: str, network: nn.Module) -> str | None:
    module = network.get_submodule(path)
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return f"{path} has hooks"
    places = [name for name, other in network.named_modules(remove_duplicate=False) if other is module]
    return f"{' and '.join(places)} are one module" if len(places) > 1 else None


class _Calls:
    """The calls of layers in a set of graphs, each of the module at a path.

    ``untraced``: why modules around them have no graph, by path.
    """

    def __init__(self, graphs: list[tuple[str, fx.Graph]], untraced: dict[str, str]) -> None:
        self._untraced = untraced
        self._of: dict[str, list[fx.Node]] = {}
        self._path: dict[fx.Node, str] = {}
        self._read: set[str] = set()
        for root, graph in graphs:
            for node in graph.nodes:
                path = _join(root, str(node.target))
                if node.op == "call_module":
                    self._of.setdefault(path, []).append(node)
                    self._path[node] = path
                elif node.op == "get_attr":
                    self._read.add(path.rpartition(".")[0])

    def layer_before(self, norm: str) -> tuple[str, str | None]:
        """Return the path of the module whose output only ``norm`` takes, or the reason why there is none."""
        if norm not in self._of:
            return "", f"nothing that can be traced calls it{self.why_untraced(norm)}"
        inputs = [source for node in self._of[norm] for source in node.all_input_nodes]
        layers = {self._path.get(source, "") for source in inputs}
        if len(layers) > 1 or "" in layers:
            return "", "it does not follow one layer"
        (layer,) = layers
        users = {self._path.get(user, "") for node in self._of[layer] for user in node.users}
        if users != {norm}:
            return layer, f"the output of {layer} is also used elsewhere"
        if self._read & {layer, norm}:
            return layer, f"the parameters of {layer} or of its own are also used elsewhere"
        return layer, None

    def why_untraced(self, path: str) -> str:
        """Return why the innermost untraced module around ``path`` is untraced, empty where there is none."""
        around = [module for module in self._untraced if path.startswith(_join(module, ""))]
        if not around:
            return ""
        module = max(around, key=len)
        return f" ({module or 'the model'}: {self._untraced[module]})"


class _Tracer(fx.Tracer):
    def __init__(self, opaque: Collection[nn.Module], hooked: Collection[nn.Module]) -> None:
        super().__init__()
        self._opaque, self._hooked = opaque, hooked

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_layer = isinstance(m, ImageConv2d) or m in self._opaque or m in self._hooked
        return is_layer or super().is_leaf_module(m, module_qualified_name)


def _graphs(network: nn.Module) -> tuple[list[tuple[str, fx.Graph]], dict[str, str]]:
    """Trace ``network``, or else its largest parts that can be: graphs by path, and why other modules have none.

    What has hooks is one layer of the network around it: they are not called with what stands for a tensor in a trace.
    """
    opaque: dict[nn.Module, str] = {}
    hooked = [each for each in network.modules() if each._forward_hooks or each._forward_pre_hooks]
    tracer = _Tracer(opaque, hooked)
    tops = dict.fromkeys((network, *(each for each in hooked if any(True for _ in each.children()))))

    def explore(module: nn.Module) -> None:
        if _failure(tracer, module):
            for part in _parts(module):
                explore(part)
            if reason := _failure(tracer, module):
                opaque[module] = reason

    for module in tops:
        explore(module)
    outermost = {*tops, *(part for module in opaque for part in _parts(module))} - opaque.keys()
    paths = {module: path for path, module in network.named_modules()}
    graphs = [(path, tracer.trace(module)) for module, path in paths.items() if module in outermost]
    return graphs, {paths[module]: reason for module, reason in opaque.items()}


def _failure(tracer: _Tracer, module: nn.Module) -> str | None:
    try:
        tracer.trace(module)
    except Exception as error:  # a forward may raise anything when its argument is not a tensor
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that the forward of ``module`` may call and that have parts themselves."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child)
        elif any(True for _ in child.children()):
            yield child


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
