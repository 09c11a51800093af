"""What a dataset on disk holds."""

from typing import NamedTuple

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


class Stored(NamedTuple):
    """splits: {"train": (images uint8 [N, C, H, W], labels int64 [N]), "test": ...}; class_names: by label."""

    splits: dict[str, Arrays]
    class_names: tuple[str, ...]
