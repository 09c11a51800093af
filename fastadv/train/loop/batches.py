"""The batches of an epoch, each in the micro-batches that this process computes one after the other."""

import math

import torch

from fastadv.distill.distiller import MicroBatch
from fastadv.train.config.train_config import Config
from fastadv.train.data.augment import EpochPlan
from fastadv.train.data.splits import Split, to_pixels
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.processes import Processes


class Batches:
    """Batches of config.batch_size, cut into config.accumulate micro-batches for each process.

    images: whether a method looks at them. Where it does not, nothing of `train` is read but its length; a
    micro-batch then has x [n, 0] and y -1.

    Raises ConfigError where the smallest batch has fewer images than micro-batches.
    """

    def __init__(
        self, train: Split, config: Config, processes: Processes, *, images: bool, device: torch.device
    ) -> None:
        self._train, self._config, self._processes = train, config, processes
        self._images, self._device = images, device
        most = math.ceil(len(train) / config.batch_size)
        self.steps_per_epoch = config.steps_in_epoch(len(train))
        self._parts = config.accumulate * processes.count
        if images and self.steps_per_epoch > most:
            raise ConfigError(
                f"steps_per_epoch: {self.steps_per_epoch}, expected at most {most}: {len(train)} training images"
            )
        smallest = self.size(self.steps_per_epoch - 1)
        # Images in the smallest micro-batch.
        self.smallest = smallest // self._parts
        if not self.smallest:
            raise ConfigError(
                f"batch_size: the smallest batch of an epoch has {smallest} images, expected at least "
                f"{self._parts}: accumulate {config.accumulate} for each of {processes.count} processes"
            )

    def plan(self, *, seed: int, epoch: int) -> EpochPlan | None:
        """Return the draws of an epoch; None where no image is looked at."""
        if not self._images:
            return None
        augmentation = self._config.augmentation
        return EpochPlan.draw(len(self._train), augmentation=augmentation, seed=seed, epoch=epoch, device=self._device)

    def micro_batches(self, plan: EpochPlan | None, index: int, own: float = 1.0) -> list[MicroBatch]:
        """Return this process's micro-batches of batch `index` of the epoch. Reads nothing back from the device.

        own: share of each image where the batch's first is mixed with its last, and so on inward; 1 mixes nothing.
        """
        size, mine = self.size(index), self._config.accumulate
        first = self._processes.rank * mine
        found = []
        for number in range(first, first + mine):
            # As torch.tensor_split: the first are one longer where the size is no multiple of their number.
            start, stop = (min(at, size % self._parts) + at * (size // self._parts) for at in (number, number + 1))
            mixed = None
            if plan is None:
                x, ids = torch.empty(stop - start, 0, device=self._device), None
                labels = torch.full((stop - start,), -1, device=self._device)
            else:
                at = index * self._config.batch_size + start
                images, labels = plan.batch(self._train.images, self._train.labels, at, stop - start)
                x, ids = to_pixels(images, channels_last=self._config.channels_last), plan.order[at : at + stop - start]
                if own < 1:
                    # Whichever process has them, the partners are the same.
                    other = index * self._config.batch_size + size - stop
                    images, theirs = plan.batch(self._train.images, self._train.labels, other, stop - start)
                    x = to_pixels(images.flip(0), channels_last=self._config.channels_last).lerp_(x, own)
                    mixed = theirs.flip(0), own
            smoothing = self._config.label_smoothing
            found.append(MicroBatch(x, labels, ids, (stop - start) / size, number, smoothing, mixed))
        return found

    def example(self, shape: torch.Size) -> torch.Tensor:
        """Return a batch of pixels [N, *shape] as a method's `build` looks at: the set's first, or zeros."""
        if not self._images:
            return torch.zeros(2, *shape, device=self._device)
        return to_pixels(self._train.images[: self._config.batch_size], channels_last=self._config.channels_last)

    def size(self, index: int) -> int:
        """Return the number of images in batch `index` of an epoch, over all processes."""
        size = self._config.batch_size
        return min(size, len(self._train) - index * size) if self._images else size
