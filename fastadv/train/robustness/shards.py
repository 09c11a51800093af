"""The verdicts on each batch of test images, one file a batch: a killed evaluation goes on after the last."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fastadv.train.runtime.errors import CheckpointError
from fastadv.train.runtime.files import write_text


@dataclass(frozen=True)
class Verdict:
    """One judge's answers: each image correct as it is (clean); that, and correct after the attack too (robust)."""

    clean: list[bool]
    robust: list[bool]


@dataclass(frozen=True)
class Shard:
    """One batch. verdicts: by the dtype of the judge. distance: of the farthest adversarial image, in the norm."""

    verdicts: dict[str, Verdict]
    distance: float
    seconds: float
    model_seconds: float

    @property
    def images(self) -> int:
        return min(len(verdict.clean) for verdict in self.verdicts.values())


class Shards:
    """The shards of an evaluation, in `folder`, by the number of their batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, sizes: Sequence[int]) -> list[int]:
        """Return the numbers of the batches, of so many images, that are not there yet or had fewer images.

        Raises CheckpointError naming one that is damaged.
        """
        return [
            number
            for number, size in enumerate(sizes)
            if not self._path(number).exists() or self.load(number).images < size
        ]

    def save(self, number: int, shard: Shard) -> None:
        self._folder.mkdir(exist_ok=True)
        write_text(self._path(number), json.dumps(asdict(shard)))

    def load(self, number: int) -> Shard:
        """Read the shard of a batch. Raises CheckpointError naming the file where it is damaged."""
        path = self._path(number)
        try:
            content = json.loads(path.read_text())
            verdicts = {judge: Verdict(**verdict) for judge, verdict in content.pop("verdicts").items()}
            return Shard(verdicts=verdicts, **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); delete it and add --resume") from None

    def _path(self, number: int) -> Path:
        return self._folder / f"batch-{number:05d}.json"
