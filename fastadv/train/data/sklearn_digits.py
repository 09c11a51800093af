"""scikit-learn's 1,797 digits of 8x8 pixels."""

import numpy as np
import torch

from fastadv.train.data.splits import Stored, stratified_order
from fastadv.train.runtime.imports import require

TEST_PER_CLASS = 50
SPLIT_SEED = 0


def read(folder: None) -> Stored:
    """Read images [N, 1, 8, 8]: 50 a class to test, the rest to train, one fixed split. Raises MissingExtraError."""
    bunch = require("sklearn.datasets", "the digits dataset").load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    order = stratified_order(torch.from_numpy(labels), seed=SPLIT_SEED).numpy()
    test, train = order[: 10 * TEST_PER_CLASS], order[10 * TEST_PER_CLASS :]
    pixels = torch.from_numpy(images[train]).double() / 255
    return Stored(
        {"train": (images[train], labels[train]), "test": (images[test], labels[test])},
        tuple(str(digit) for digit in range(10)),
        mean=(pixels.mean().item(),),
        std=(pixels.std().item(),),
    )
