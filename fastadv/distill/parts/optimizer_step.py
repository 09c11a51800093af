"""One optimizer's step on the terms of a method: micro-batches, processes, precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from fastadv.distill.method import Batch, Terms
from fastadv.distill.parts.processes import Processes


class Weighted(NamedTuple):
    """A batch, or a part of one, and the share of the whole batch's images by which its loss counts."""

    batch: Batch
    share: float


class OptimizerStep:
    """Minimise terms["loss"] over the parameters of ``optimizer``, and give no other parameter a gradient.

    A loss that is a mean over images gets, from the micro-batches of every process, the gradient of the whole batch:
    each counts by its share.

    trained: the modules whose BatchNorm statistics become their mean over the processes, by share.
    scaler: of the loss, for float16; one that is not enabled does nothing.
    clip_norm: the largest l2 norm of the gradient of all parameters; None is any.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        processes: Processes,
        trained: Sequence[nn.Module] = (),
        scaler: torch.amp.GradScaler,
        clip_norm: float | None = None,
    ) -> None:
        self.optimizer, self._processes = optimizer, processes
        self._scaler, self._clip_norm = scaler, clip_norm
        self._norms = [each for part in trained for each in part.modules() if isinstance(each, _BatchNorm)]
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def scale_rate(self, factor: float) -> None:
        """Set each group's rate to ``factor`` of the rate it was made with."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = factor * rate

    @property
    def rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def step(self, batches: Sequence[Weighted], terms_of: Callable[[Batch], Terms]) -> Terms:
        """Take one step; return the terms of the whole batch, detached. Reads nothing back from the device."""
        self.optimizer.zero_grad(set_to_none=True)
        # Networks are thawed and frozen on the way.
        groups = self.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]
        whole: Terms = {}
        for batch, share in batches:
            terms = terms_of(batch)
            if share < 1:
                terms = {name: term * share for name, term in terms.items()}
            self._scaler.scale(terms["loss"]).backward(inputs=parameters)
            for name, term in terms.items():
                whole[name] = whole[name] + term.detach() if name in whole else term.detach()
        if self._processes.count > 1:
            whole = self._all_reduce(parameters, whole, sum(share for _, share in batches))
        if self._clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return whole

    def _all_reduce(self, parameters: Sequence[nn.Parameter], terms: Terms, share: float) -> Terms:
        """Add up gradients, terms and statistics over all processes, in one message."""
        terms = {name: term.float().clone() for name, term in terms.items()}
        norms = [norm for norm in self._norms if norm.training]
        statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
        for statistic in statistics:
            statistic.mul_(share)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._processes.all_reduce([*gradients, *terms.values(), *statistics])
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
