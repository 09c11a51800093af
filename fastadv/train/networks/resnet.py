"""The residual networks of He et al. 2016 for 32x32 images, in the two forms of the literature.

resnet8 .. resnet110: their section 4.2, depth 6 n + 2, three stages of 16, 32 and 64 channels; resnet8x4 and
resnet32x4 are four times as wide behind a stem of 32 (Tian et al. 2020). resnet18, resnet34 and resnet50: the four
stages they use for ImageNet, of 64 to 512 channels (times 4 with bottlenecks), behind a 3x3 stem without pooling: the
ResNet-18 of robust distillation, the resnet18_8x and resnet34_8x of data-free distillation, the ResNet50 of Tian et
al.

The shortcut where shapes change is a 1x1 convolution and BatchNorm (option B), not zero padding (option A): resnet20
.. resnet110 have 2,752 parameters more than those of the paper. Parameter names are those of the public CIFAR
checkpoints of chenyaofo/pytorch-cifar-models; those of kuangliu/pytorch-cifar are understood.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, ReluBlock, Stage, conv_bn, initialise_convolutions, repeat, run


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*conv_bn(inputs, outputs, 1, stride=stride))


class BasicBlock(ReluBlock):
    """y = relu(F(x) + shortcut(x)), F = conv, BatchNorm, relu, conv, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride=stride)
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3)
        self.downsample = _shortcut(inputs, outputs, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)) + self.downsample(x)


class Bottleneck(ReluBlock):
    """y = relu(F(x) + shortcut(x)), F = 1x1, 3x3 (strided), 1x1 convolution, a quarter of the channels inside."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1, self.bn1 = conv_bn(inputs, inner, 1)
        self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride=stride)
        self.conv3, self.bn3 = conv_bn(inner, outputs, 1)
        self.downsample = _shortcut(inputs, outputs, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.downsample(x)


class ResNet(Network):
    """x [N, C, H, W] to logits [N, num_classes]; every stage but the first halves H and W.

    blocks: in each stage. widths: channels of the stem and of each stage.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], ReluBlock],
        blocks: Sequence[int],
        widths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, widths[0], 3)
        for number, (width, count) in enumerate(zip(widths[1:], blocks, strict=True), start=1):
            stage = repeat(block, widths[number - 1], width, count, stride=1 if number == 1 else 2)
            self.add_module(f"layer{number}", Stage(*stage))
        self.fc = nn.Linear(widths[-1], num_classes)
        initialise_convolutions(self)
        self.register_load_state_dict_pre_hook(_understand_other_names)

    def with_features(self, x: Tensor) -> Features:
        stages = [module for module in self.children() if isinstance(module, Stage)]
        return run(self.bn1(self.conv1(x)), stages, self.fc)


def _understand_other_names(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """A state_dict in the names of kuangliu/pytorch-cifar, in ours."""
    for name in list(weights):
        if name.startswith(prefix):
            own = re.sub(r"^linear\.", "fc.", name.removeprefix(prefix)).replace(".shortcut.", ".downsample.")
            weights[prefix + own] = weights.pop(name)


def cifar_resnet(
    depth: int, *, widths: Sequence[int] = (16, 16, 32, 64), num_classes: int, in_channels: int = 3
) -> ResNet:
    """Three stages of basic blocks. Raises ValueError for a depth that is not 6 n + 2."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth: {depth}, expected 6 n + 2 with n >= 1")
    return ResNet(BasicBlock, 3 * [(depth - 2) // 6], widths, num_classes=num_classes, in_channels=in_channels)


def imagenet_resnet(
    blocks: Sequence[int], *, bottleneck: bool = False, num_classes: int, in_channels: int = 3
) -> ResNet:
    """Four stages of basic blocks or bottlenecks behind a 3x3 stem of 64 channels. blocks: in each stage."""
    wide = 4 if bottleneck else 1
    widths = (64, *(wide * width for width in (64, 128, 256, 512)))
    block = Bottleneck if bottleneck else BasicBlock
    return ResNet(block, blocks, widths, num_classes=num_classes, in_channels=in_channels)
