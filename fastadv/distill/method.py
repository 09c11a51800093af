"""What every method of training a student looks like to a trainer."""

from __future__ import annotations

import abc
from collections.abc import Callable

from torch import Tensor, nn

Network = Callable[[Tensor], Tensor]


class Method(nn.Module, abc.ABC):
    """One batch to the terms of its loss. Parameters of a method, if it has any, are trained with the student's."""

    needs_teacher: bool

    @abc.abstractmethod
    def forward(
        self,
        student: Network,
        teacher: Network | None,
        x: Tensor,
        y: Tensor,
        *,
        progress: float,
        seed: int | Tensor,
    ) -> dict[str, Tensor]:
        """The scalar terms of the loss by name; ``terms["loss"]`` is to be minimised, the others are detached.

        Args:
            student: from images to logits [N, C], in the mode it is to be trained in.
            teacher: as the student; only read: it runs in eval mode, without gradients. None where none is needed.
            x: images [N, ...].
            y: classes [N], int64.
            progress: share of training that is done, in [0, 1), for schedules.
            seed: of the method's random numbers, an int or an int64 tensor without dimensions on the device of x.

        Raises TypeError where the method needs a teacher and gets None.
        """
