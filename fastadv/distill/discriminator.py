"""The discriminator of AI-KD: which of two networks made these logits?"""

from __future__ import annotations

from torch import Tensor, nn

from fastadv.reference._common import accumulate


class Discriminator(nn.Module):
    """Logits [N, C] to one score a sample, [N], high for the pre-trained network, in the precision of losses.

    Linear layers of 256, 64 and 1 outputs, with LeakyReLU of slope 0.2 between.

    probabilities: whether it sees the logits' softmax in their place.
    """

    def __init__(self, classes: int, *, probabilities: bool = False) -> None:
        super().__init__()
        self.probabilities = probabilities
        self.layers = nn.Sequential(
            nn.Linear(classes, 256), nn.LeakyReLU(0.2), nn.Linear(256, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )

    def forward(self, logits: Tensor) -> Tensor:
        logits = accumulate(logits)
        return accumulate(self.layers(logits.softmax(1) if self.probabilities else logits).squeeze(1))
