"""Wide residual networks (Zagoruyko and Komodakis 2016): wrn_D_K has depth D = 6 n + 4 and 16 K, 32 K, 64 K channels.

BatchNorm and ReLU come before the convolutions, so a stage has no ReLU of its own: its preactivation is what the
BatchNorm after it gives, its map that after the ReLU. A BatchNorm that reads a sum cannot be folded by freeze().
Parameter names are those of HobbitLong/RepDistiller.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, global_average, initialise_convolutions, repeat


class PreActivationBlock(nn.Module):
    """y = F(a) + x, or F(a) + conv1x1(a) where shapes change.

    a = relu(BatchNorm(x)), F = conv, BatchNorm, relu, conv.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_activation(x, F.relu(self.bn1(x)))

    def after_activation(self, x: Tensor, activated: Tensor) -> Tensor:
        """y where relu(BatchNorm(x)) is known."""
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(activated))))


class WideResNet(Network):
    """x [N, C, H, W] to logits [N, num_classes]. Raises ValueError for a depth that is not 6 n + 4."""

    def __init__(self, depth: int, width: int, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth: {depth}, expected 6 n + 4 with n >= 1")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        blocks = (depth - 4) // 6
        self.block1 = _stage(16, 16 * width, blocks, stride=1)
        self.block2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        initialise_convolutions(self)

    def with_features(self, x: Tensor) -> Features:
        preactivations: list[Tensor] = []
        maps: list[Tensor] = []
        x = self.conv1(x)
        for stage in (self.block1, self.block2, self.block3):
            first, *blocks = stage["layer"].children()
            assert isinstance(first, PreActivationBlock)
            preactivations.append(first.bn1(x))
            maps.append(F.relu(preactivations[-1]))
            x = first.after_activation(x, maps[-1])
            for block in blocks:
                x = block(x)
        preactivations.append(self.bn1(x))
        maps.append(F.relu(preactivations[-1]))
        embedding = global_average(maps[-1])
        return Features(tuple(maps), tuple(preactivations), embedding, self.fc(embedding))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.ModuleDict:
    """Blocks one after the other, under the name that public checkpoints have for them."""
    return nn.ModuleDict({"layer": nn.Sequential(*repeat(PreActivationBlock, inputs, outputs, blocks, stride))})
