"""Random crop and flip of a whole batch at once, and the epoch's plan of draws."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastadv.distill.parts.seeding import generator
from fastadv.train.data.datasets import Augmentation


def crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, *, pad: int) -> Tensor:
    """Pad with zeros, cut each image's own window, mirror where asked.

    out[i, c, h, w] = padded[i, c, top[i] + h, left[i] + w'], w' = W-1-w where flip[i], else w.
    images: [N, C, H, W] of any dtype. top, left: int64 [N] in [0, 2 pad]. flip: bool [N].
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
    cut = windows[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flip[:, None, None, None], cut.flip(3), cut)


@dataclass(frozen=True)
class EpochPlan:
    """The draws of one epoch, on the device: the order of the images [N], and each one's window and flip [N].

    Drawn on the CPU from (seed, epoch): the same on every device, and nothing is copied inside the epoch.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor
    pad: int

    @classmethod
    def draw(
        cls, size: int, *, augmentation: Augmentation, seed: int, epoch: int, device: torch.device | str = "cpu"
    ) -> "EpochPlan":
        random = generator(seed, "epoch", epoch)
        pad = {"none": 0, "shift1": 1, "crop4_flip": 4}[augmentation]
        order = torch.randperm(size, generator=random)
        top, left = torch.randint(2 * pad + 1, (2, size), generator=random)
        flip = torch.rand(size, generator=random) < (0.5 if augmentation == "crop4_flip" else 0.0)
        return cls(order.to(device), top.to(device), left.to(device), flip.to(device), pad)

    def batch(self, images: Tensor, labels: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of positions start .. start + size of the epoch, augmented, still uint8."""
        part = slice(start, start + size)
        chosen = self.order[part]
        picked = images[chosen]
        if self.pad:
            picked = crop_flip(picked, self.top[part], self.left[part], self.flip[part], pad=self.pad)
        return picked, labels[chosen]
