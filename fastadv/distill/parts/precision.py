"""Full precision inside a step that runs in less."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Compute matrix products on the device of ``x`` in the dtype of their inputs, whatever autocast says."""
    kind = x.device.type
    # Disabling what is off would do, but some devices, such as meta, know no autocast at all.
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if enabled else contextlib.nullcontext()
