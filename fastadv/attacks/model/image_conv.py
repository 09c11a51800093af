"""A convolution of images, its gradient by them found for blocks of pixels at once: ImageConv2d."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels that oneDNN computes at once on such a CPU, whether an image has as many or not.
_WIDTH = 16
_IS_WIDE = "AVX512" in torch.backends.cpu.get_cpu_capability()
_DTYPES = (torch.float32, torch.bfloat16)


class ImageConv2d(nn.Conv2d):
    """A :class:`torch.nn.Conv2d` whose gradient by its input comes sooner on a CPU with AVX512.

    That gradient is a convolution to the few channels of an image, which leaves most of a vector idle. With a stride
    of one block, and every pixel of a block as channels of its own, it fills one: the same sums. Where weight or bias
    require a gradient, and elsewhere, all is left to torch.
    """

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        """Return whether ``layer`` is a convolution of images that can be one of these."""
        if type(layer) is not nn.Conv2d or layer.in_channels > 4 or layer.padding_mode != "zeros":
            return False
        if isinstance(layer.padding, str) or layer.groups != 1 or {*layer.stride, *layer.dilation} != {1}:
            return False
        return all(pad < size for pad, size in zip(layer.padding, layer.kernel_size, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x`` [N, in_channels, H, W]."""
        if not self._is_gained(x):
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias, self.padding, _block(self.in_channels))

    def _is_gained(self, x: Tensor) -> bool:
        if not (_IS_WIDE and x.requires_grad and torch.is_grad_enabled()) or x.device.type != "cpu":
            return False
        trains = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if trains or torch.is_autocast_enabled("cpu") or not x.dtype == self.weight.dtype in _DTYPES:
            return False
        return x.dim() == 4 and not any(size % _block(self.in_channels) for size in x.shape[2:])


class _Convolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, block: int) -> Tensor:
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weight, _, ctx.padding, ctx.block = inputs
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _by_input(grad, weight, ctx.padding, ctx.block), None, None, None, None


def _by_input(grad: Tensor, weight: Tensor, padding: tuple[int, int], block: int) -> Tensor:
    """Return the gradient by the input, given that by the output [N, C, H', W']."""
    # For one pixel: the kernel turned about, its channels exchanged; for a block, the same at each of its places.
    turned = weight.flip(2, 3).transpose(0, 1)
    rest = block - 1
    places = itertools.product(range(block), repeat=2)
    kernels = [F.pad(turned, (right, rest - right, down, rest - down)) for down, right in places]
    kernel = torch.cat(kernels).contiguous(memory_format=torch.channels_last)
    around = [size - 1 - pad for size, pad in zip(weight.shape[2:], padding, strict=True)]
    blocks = F.conv2d(grad, kernel, stride=block, padding=around)
    samples, _, rows, columns = blocks.shape
    pixels = blocks.permute(0, 2, 3, 1).reshape(samples, rows, columns, block, block, -1).transpose(2, 3)
    return pixels.reshape(samples, rows * block, columns * block, -1).permute(0, 3, 1, 2)


def _block(channels: int) -> int:
    """Return the side of a block whose pixels, of so many channels, fill a vector and no more."""
    return max(side for side in (1, 2, 4) if side * side * channels <= _WIDTH)
