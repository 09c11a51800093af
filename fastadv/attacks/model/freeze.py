"""A copy of a network made to be attacked: freeze."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks.model import folding
from fastadv.attacks.model.found_modules import modules_in_collections, unwrapped
from fastadv.attacks.model.fusing import fuse, hooked_modules
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.image_conv import ImageConv2d
from fastadv.attacks.model.networks import Networks
from fastadv.numerics import accumulate
from fastadv.ops import checks


def freeze(
    model: nn.Module, *, dtype: torch.dtype | None = None, channels_last: bool = True, fold_batchnorm: bool = True
) -> Frozen:
    """Return a copy of ``model`` made to be attacked: the same logits and image gradients sooner.

    Its parameters require no gradient. Each BatchNorm in eval mode that alone follows a convolution or linear layer is
    folded into that layer, ``w' = w gamma / sqrt(var + eps)`` and ``b' = (b - mean) gamma / sqrt(var + eps) + beta``,
    computed in float32 at least and rounded once. What cannot be folded stays as it is, with a warning; see
    :attr:`Frozen.kept`. A BatchNorm in train mode is never folded: call ``model.eval()`` before (a later
    :meth:`Frozen.refresh` does not look at the mode again). Nor is one beside its layer in an ``nn.Sequential`` that is
    run by a forward which symbolic tracing cannot follow (an ``assert`` on a shape is enough): it may run the layers
    one by one. The model itself is left as it is.

    On a CPU whose oneDNN computes in bfloat16, where no gradient is asked for, ReLUs and the sums before them are
    computed inside the convolutions. On one with AVX512 a convolution of images with up to four channels computes their
    gradient for several pixels at once, see :class:`fastadv.attacks.model.image_conv.ImageConv2d`.

    ``frozen.compile()``, which every module has, also fuses what lies between the convolutions, for one or two minutes
    of compilation. An attack that is compiled whole (see :func:`fastadv.attacks.pgd`), called under ``torch.no_grad()``
    with ``torch._inductor.config.freezing`` on, fuses activations into convolutions too, and takes the weights of the
    first call as constants: a later :meth:`Frozen.refresh` is not seen. ``benchmarks/studies/attack_loops.py`` times
    that.

    Args:
        model: any module from images to logits [N, C]; of a DistributedDataParallel the module inside.
        dtype: of parameters, buffers and computation: float64, float32, bfloat16 or float16; None keeps them. In half
            precision the layer through which images enter stays in float32 where there is one such layer, which shares
            no weight with another: a pixel in bfloat16 is rounded by up to 1/512, which small perturbations do not
            survive.
        channels_last: memory layout of convolution weights and of images [N, C, H, W], usually the faster one. A model
            that cannot run in it (one that calls view() on its activations) goes back to the contiguous layout at its
            first call, with a warning.
        fold_batchnorm: whether to fold.

    Returns:
        A :class:`Frozen` module.

    Raises:
        TypeError: model is no module or a scripted one, dtype is no floating-point dtype.
        ValueError: model cannot be copied.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model must be a torch.nn.Module that is not scripted, got {type(model).__name__}")
    if dtype is not None and dtype not in checks.FLOATING:
        raise TypeError(f"dtype must be None, float64, float32, bfloat16 or float16, got {dtype!r}")
    # No gradient can be recorded through tensors of inference mode.
    with torch.inference_mode(False):
        frozen = Frozen(unwrapped(model), dtype=dtype, channels_last=channels_last, fold_batchnorm=fold_batchnorm)
    if aside := modules_in_collections(unwrapped(model)):
        name, collection = next(iter(aside.items()))
        warnings.warn(
            f"freeze: modules in the {collection} {name!r} are no part of the model: the copy has them as they are now,"
            " and neither their dtype nor refresh() changes them; hold them in an nn.ModuleList or nn.ModuleDict",
            stacklevel=2,
        )
    if frozen.kept:
        path, reason = next(iter(frozen.kept.items()))
        more = f", and {len(frozen.kept) - 1} more (see .kept)" if len(frozen.kept) > 1 else ""
        warnings.warn(f"freeze: BatchNorm {path!r} is not folded: {reason}{more}", stacklevel=2)
    return frozen


class Frozen(nn.Module):
    """The copy that :func:`freeze` returns.

    Attributes:
        folded: the pairs (layer, norm) of paths in the model that are one layer here.
        kept: why each other BatchNorm is not folded, by its path; empty where folding was not asked for.
        untraced: why modules could not be traced, by their path; their parts were looked at one by one.
        entry: the layer that computes in float32 for images in full precision; None where none does for that.
        images_dtype: the dtype in which the network is given its images; None leaves theirs.
    """

    def __init__(
        self, model: nn.Module, *, dtype: torch.dtype | None, channels_last: bool, fold_batchnorm: bool
    ) -> None:
        super().__init__()
        self.training = model.training
        self._model = (model,)  # in a tuple, so as to be no part of this module
        self.network = _copied(model)
        plan = folding.plan_folding(model)
        if not fold_batchnorm:
            plan = plan._replace(pairs=(), kept={})
        self.folded, self.kept, self.untraced = plan.pairs, plan.kept, plan.untraced
        for layer, norm in self.folded:
            _make_room(self.network.get_submodule(layer))
            self.network.set_submodule(norm, folding.Folded(self.network.get_submodule(layer)))
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for module in self.network.modules():
            if ImageConv2d.suits(module):
                module.__class__ = ImageConv2d  # with its hooks and all else that it has
        halved = dtype in (torch.float16, torch.bfloat16)
        self.entry = None if not halved or _is_shared(self.network, plan.entry) else plan.entry
        self.images_dtype = dtype
        if dtype is not None:
            self._convert(dtype, plan.before)
        self._channels_last = channels_last
        self._layout_is_tried = not channels_last
        # With what had hooks then; in a tuple, so as to be no part of this module.
        self._fused: tuple[nn.Module | None, list[nn.Module]] | None = None
        if channels_last:
            _lay_out(self.network, torch.channels_last)
        self.refresh()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, C] of images [N, ...], in the dtype of the copy."""
        return self._run(self._fused_network() if self._may_be_fused(x) else self.network, x)

    def with_features(self, x: Tensor) -> Any:
        """Return what the model's own ``with_features`` gives for images [N, ...]; AttributeError where it has none.

        The same BatchNorms are folded, on the promise that ``forward(x)`` is ``with_features(x).logits``.
        """
        network: Any = self.network
        return self._run(network.with_features, x)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's parameters and buffers as they are now, folded anew, and nothing else of it.

        In place: tensors keep their addresses, so a graph that was captured or compiled with them sees the new values.
        Nothing is traced again and nothing waits for the device. A deep copy of this module has a deep copy of the
        model too, and follows that one.

        Raises ValueError where the model has lost a tensor or changed its shape since it was frozen.
        """
        (model,) = self._model
        new = dict(_tensors(model))
        for layer, norm in self.folded:
            weight, bias = folding.folded(model.get_submodule(layer), model.get_submodule(norm))
            new[f"{layer}.weight"], new[f"{layer}.bias"] = weight, bias
        for name, tensor in _tensors(self.network):
            if name not in new or new[name].shape != tensor.shape:
                found = list(new[name].shape) if name in new else "nothing"
                raise ValueError(f"{name} has shape {list(tensor.shape)} here, in the model {found}: freeze it again")
            tensor.copy_(new[name])

    def difference(self, x: Tensor) -> Tensor:
        """Return the largest absolute difference to the model's logits on images ``x`` [N, ...], both in eval mode.

        A tensor without dimensions on the device of x: reading it is what waits. Raises TypeError and ValueError where
        x are no images or none at all.
        """
        checks.samples("x", x)
        if not x.shape[0]:
            raise ValueError(f"x must hold at least one image, got {list(x.shape)}")
        with no_trace((*self._model, self)), torch.no_grad():
            return (accumulate(self(x)) - accumulate(Networks(self._model[0])(x)[0])).abs().amax()

    def extra_repr(self) -> str:
        """Return the numbers of BatchNorm layers that are folded and kept."""
        return f"folded={len(self.folded)}, kept={len(self.kept)}, entry={self.entry}"

    def __getstate__(self) -> dict[str, Any]:
        """All but the fused network, which a copy makes anew of its own."""
        return {**vars(self), "_fused": None}

    def _may_be_fused(self, x: Tensor) -> bool:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return False
        return not self.training and not torch.is_autocast_enabled("cpu")

    def _fused_network(self) -> nn.Module:
        hooked = hooked_modules(self.network)
        if self._fused is None or self._fused[1] != hooked:
            self._fused = fuse(self.network), hooked
        return self._fused[0] or self.network

    def _convert(self, dtype: torch.dtype, before: frozenset[str]) -> None:
        """Convert the network to ``dtype``; the entry and the tensors ``before`` it stay in float32."""
        self.network.to(dtype)
        if self.entry is None:
            return
        self.images_dtype = torch.float32
        layer = self.network.get_submodule(self.entry).float()
        layer.register_forward_hook(_CastOutput(dtype))
        for name, tensor in _tensors(self.network):
            if name in before and tensor.is_floating_point():
                tensor.data = tensor.data.float()

    def _run(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Call ``function`` of the network with the images in its dtype and layout."""
        if self.images_dtype is not None:
            x = x.to(self.images_dtype)
        if not self._channels_last or x.dim() != 4:
            return function(x)
        if self._layout_is_tried or torch.compiler.is_compiling():
            return function(x.contiguous(memory_format=torch.channels_last))
        return self._try_layout(function, x)

    def _try_layout(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        try:
            result = function(x.contiguous(memory_format=torch.channels_last))
        except RuntimeError as error:
            _lay_out(self.network, torch.contiguous_format)
            try:
                result = function(x.contiguous())
            except BaseException:
                # The layout is not what it fails at.
                _lay_out(self.network, torch.channels_last)
                raise
            self._channels_last = False
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"freeze: the model runs in the contiguous layout, not in channels_last: {reason}", stacklevel=4
            )
        self._layout_is_tried = True
        return result


class _CastOutput:
    """A forward hook that casts the output of its layer to ``dtype``."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.to(self._dtype)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module may hold anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"model must be one that copy.deepcopy() can copy, got {reason}") from error


def _is_shared(network: nn.Module, layer: str | None) -> bool:
    """Return whether a parameter of ``layer`` is one of another module too."""
    if layer is None:
        return False
    own = {id(tensor) for tensor in network.get_submodule(layer).parameters()}
    return any(id(tensor) in own and not name.startswith(f"{layer}.") for name, tensor in _tensors(network))


def _make_room(layer: Any) -> None:
    """Give the layer a weight and a bias of its own, shared with no other, for folded values."""
    weight = layer.weight.detach()
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    layer.bias = nn.Parameter(weight.new_zeros(outputs), requires_grad=False)


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Convert the four-dimensional parameters to ``memory_format``; Module.to() would refuse those of five."""
    # A parameter of inference mode is one that no later attack could go through.
    with torch.inference_mode(False):
        for parameter in module.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return all parameters and buffers, shared ones under each of their names."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
