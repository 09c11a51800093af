"""One optimizer's step on the terms of a method: micro-batches, processes, precision."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastadv.distill import Batch
from fastadv.train.loop.batches import MicroBatch
from fastadv.train.runtime.processes import Processes


class OptimizerStep:
    """Minimise terms["loss"] over the parameters of `optimizer`, and gives no other parameter a gradient.

    A loss that is a mean over images gets, from the micro-batches of every process, the gradient of the whole
    batch: each counts by its share.

    statistics: running statistics of BatchNorm, which become their mean over the processes, by share.
    scaler: of the loss, for float16; one that is not enabled does nothing.
    clip_norm: the largest l2 norm of the gradient of all parameters; None is any.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        processes: Processes,
        statistics: Sequence[Tensor] = (),
        scaler: torch.amp.GradScaler,
        clip_norm: float | None = None,
    ) -> None:
        self._optimizer, self._processes, self._statistics = optimizer, processes, statistics
        self._scaler, self._clip_norm = scaler, clip_norm
        self._parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad
        ]
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def schedule(self, rate_now: Callable[[float], float]) -> None:
        """Set each group's rate to `rate_now` of the rate it was made with."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate_now(rate)

    @property
    def rate(self) -> float:
        return self._optimizer.param_groups[0]["lr"]

    def step(
        self, micro_batches: Sequence[MicroBatch], terms_of: Callable[[Batch], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Take one step; return the terms of the whole batch, detached. Reads nothing back from the device."""
        self._optimizer.zero_grad(set_to_none=True)
        whole: dict[str, Tensor] = {}
        for batch, share in micro_batches:
            terms = terms_of(batch)
            if share < 1:
                terms = {name: term * share for name, term in terms.items()}
            self._scaler.scale(terms["loss"]).backward(inputs=self._parameters)
            for name, term in terms.items():
                whole[name] = whole[name] + term.detach() if name in whole else term.detach()
        if self._processes.count > 1:
            whole = self._all_reduce(whole, sum(share for _, share in micro_batches))
        if self._clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return whole

    def _all_reduce(self, terms: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        """Gradients, terms and statistics over all processes, in one message."""
        terms = {name: term.float().clone() for name, term in terms.items()}
        for statistic in self._statistics:
            statistic.mul_(share)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._processes.all_reduce([*gradients, *terms.values(), *self._statistics])
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
