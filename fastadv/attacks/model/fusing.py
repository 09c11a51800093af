"""A network for passes on a CPU of which no gradient is asked, its ReLUs computed inside convolutions: fuse."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fastadv.attacks.model.folding import Folded
from fastadv.attacks.model.found_modules import submodules
from fastadv.attacks.model.image_conv import ImageConv2d

# What a graph may have beside layers. None of it draws numbers, keeps any or depends on a value, so the graph is the
# whole network; arithmetic is known where no number of the network's own code, which may be a random one, takes part.
_SUMS = (operator.add, operator.iadd, torch.add)
_ARITHMETIC = (*_SUMS, operator.sub, operator.mul, operator.truediv)
_FUNCTIONS = (F.relu, torch.relu, torch.cat, torch.flatten, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)
_METHODS = ("relu", "mean", "flatten")
_DTYPES = (torch.float32, torch.bfloat16)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # They, and hooks, look at what they are given, which only a call can.
        looks = isinstance(m, ImageConv2d) or (isinstance(m, Folded) and m.after_linear) or _is_hooked(m)
        return looks or super().is_leaf_module(m, module_qualified_name)


def fuse(network: nn.Module) -> nn.Module | None:
    """Return ``network``, with its own tensors and hooks, where single calls give relu(conv(x)) and relu(conv(x) + z).

    A ReLU, and the sum before it, then need no pass over memory of their own. It computes the same, in half precision
    rounded less often; for eval mode, under ``torch.no_grad()``, on a CPU. None where nothing can be fused, where
    oneDNN does not compute in bfloat16 here, or where the network does more than call layers and add, multiply, join,
    pool and flatten what they give.
    """
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    try:
        graph = _Tracer().trace(copy.deepcopy(network).eval())
    except Exception:  # a forward may raise anything when its argument is not a tensor
        return None
    if not all(_is_known(node, network) for node in graph.nodes):
        return None
    fused = [_fuse(graph, node, network) for node in graph.nodes if _is_plain_convolution(node, network)]
    if not any(fused):
        return None
    module = fx.GraphModule(network, graph)
    for name in vars(network):
        if name.startswith(_HOOKS):
            setattr(module, name, getattr(network, name))
    return module


def hooked_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules of ``network`` that have hooks, which a network fused before they had them would not call."""
    return [module for module in submodules(network) if _is_hooked(module)]


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    other: Tensor | None = None,
) -> Tensor:
    """Return ``relu(conv2d(x, ...) + other)``; with ``other``, the convolution keeps height and width."""
    there = (x.dtype, (x.shape[0], weight.shape[0], *x.shape[2:]))
    # oneDNN takes a sum in bfloat16 in channels_last alone, and only where no other layout has the same strides.
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    apart = other is not None and not (channels_last and groups == 1 and (other.dtype, other.shape) == there)
    if x.dtype not in _DTYPES or apart:
        out = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        return F.relu(out if other is None else out + other)
    how, convolution = (padding, stride, dilation, groups), torch.ops.mkldnn._convolution_pointwise
    if other is None:
        return convolution(x, weight, bias, *how, "relu", [], "")
    return convolution.binary(x, other, weight, bias, *how, "add", 1.0, "relu", [], None)


def _fuse(graph: fx.Graph, conv: fx.Node, network: nn.Module) -> bool:
    """Put one call for ``conv`` and the ReLU that alone takes its output, or its sum with another tensor."""
    layer: Any = network.get_submodule(str(conv.target))
    replaced, others = [conv], []
    user = _only_user(conv)
    if user is not None and user.target in _SUMS and not user.kwargs and _keeps_size(layer):
        replaced.append(user)
        others = [source for source in user.all_input_nodes if source is not conv]
        user = _only_user(user)
    if user is None or not _is_relu(user, network) or len(others) != len(replaced) - 1:
        return False
    with graph.inserting_before(user):
        weight = graph.get_attr(f"{conv.target}.weight")
        bias = None if layer.bias is None else graph.get_attr(f"{conv.target}.bias")
        how = layer.stride, layer.padding, layer.dilation, layer.groups
        call = graph.call_function(conv_relu, (*conv.args, weight, bias, *how, *others))
    user.replace_all_uses_with(call)
    for node in (user, *reversed(replaced)):
        graph.erase_node(node)
    return True


def _is_known(node: Any, network: nn.Module) -> bool:
    if _writes(node, network) and node.args[0].users.keys() != {node}:
        return False  # what is written to is read elsewhere, where the order counts
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        return name in network.get_submodule(path)._parameters or name in network.get_submodule(path)._buffers
    if node.op == "call_function":
        numbers = [value for value in node.args if not isinstance(value, fx.Node)]
        return node.target in _FUNCTIONS or (node.target in _ARITHMETIC and not numbers and not node.kwargs)
    return node.op != "call_method" or node.target in _METHODS


def _writes(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    return node.target is operator.iadd or bool(node.kwargs.get("inplace", False))


def _is_plain_convolution(node: fx.Node, network: nn.Module) -> bool:
    if node.op != "call_module":
        return False
    layer: Any = network.get_submodule(str(node.target))
    if type(layer) not in (nn.Conv2d, ImageConv2d) or _is_hooked(layer):
        return False
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _keeps_size(layer: Any) -> bool:
    sizes = zip(layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True)
    return all(stride == 1 and 2 * pad == dilation * (size - 1) for stride, pad, dilation, size in sizes)


def _is_relu(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        layer = network.get_submodule(str(node.target))
        return type(layer) is nn.ReLU and not _is_hooked(layer)
    return node.target in (F.relu, torch.relu, "relu")


def _is_hooked(layer: nn.Module) -> bool:
    return any(hooks for name, hooks in vars(layer).items() if name.startswith(_HOOKS))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
