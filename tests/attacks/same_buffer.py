"""A network that reuses its output buffer."""

import torch
from torch import nn


class _InBuffer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, buffer):
        return buffer.copy_(logits).detach()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class SameBuffer(nn.Module):
    """Gives its outputs for batches of one length in one buffer, as a replayed graph does."""

    def __init__(self, network):
        super().__init__()
        self.network, self.outputs = network, {}

    def forward(self, x):
        logits = self.network(x)
        return _InBuffer.apply(logits, self.outputs.setdefault(len(x), torch.empty_like(logits.detach())))
