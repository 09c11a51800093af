"""A stage of training one network."""

from dataclasses import dataclass

from fastadv.train.loop.optimizer_step import Descent


@dataclass
class Stage:
    """The warm-up or the training proper: `total` steps of `descent`, of which `done` are done.

    kind: what its lines of metrics are called.
    """

    kind: str
    descent: Descent
    total: int
    steps_per_epoch: int
    done: int = 0

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    @property
    def progress(self) -> float:
        """The share of its steps that is done."""
        return self.done / self.total

    @property
    def epoch(self) -> int:
        """That of the next step, counted from 0; after the last step of an epoch, how many have ended."""
        return self.done // self.steps_per_epoch

    def ended(self, *, epochs: int) -> bool:
        """Whether the newest step was the last of all, or of each `epochs`-th epoch."""
        return self.finished or (self.between_epochs and self.epoch % epochs == 0)

    @property
    def between_epochs(self) -> bool:
        return self.done % self.steps_per_epoch == 0

    def rest_of_epoch(self) -> range:
        """The places in the epoch of the steps that are left of it."""
        first = self.done % self.steps_per_epoch
        return range(first, min(self.steps_per_epoch, first + self.total - self.done))
