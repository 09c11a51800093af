"""Many searches in batches of one shape: rows that take the place of rows that are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]

# The batch shrinks where this part of its rows stands idle, one in so many.
_IDLE = 8
# Rows of a pass on a CPU, for each thread and at least, in float32: more do not keep a core busier, but leave its
# cache.
_ROWS_A_THREAD, _ROWS = 16, 32


def rows_in_a_pass(batch_size: int, device: torch.device, dtype: torch.dtype) -> int:
    """Return ``batch_size``, on a CPU no more rows than are the fastest there, which also take the least memory.

    dtype: of the network's activations; in half precision twice as many rows take the same place.
    """
    if device.type != "cpu":
        return batch_size
    rows = max(_ROWS_A_THREAD * torch.get_num_threads(), _ROWS)
    if dtype.itemsize < torch.float32.itemsize:
        rows *= 2
    return min(batch_size, rows)


class Begun(NamedTuple):
    """Rows that begin together.

    Attributes:
        x0: clean images [rows, ...].
        y: their classes [rows].
        eps: their radii [rows].
        target: the class that each aims at [rows]; that of the image itself where the search has no targets.
        ids: identities [rows] for :func:`fastadv.random_start`: ``sample id + (copy << 32)``.
        copy: which restart or target of its image each is [rows].
    """

    x0: Tensor
    y: Tensor
    eps: Tensor
    target: Tensor
    ids: Tensor
    copy: Tensor

    def aimed(self, x: Tensor) -> State:
        """Return what the state of a search by gradients has of its rows, which begin at ``x``, with no step made."""
        given = {"x0": self.x0, "y": self.y, "eps": self.eps, "target": self.target}
        return {"x": x, **given, "made": torch.zeros_like(self.y)}


class Search(Protocol):
    """A way to look for a misclassified image near a clean one, a row at a time.

    All that a row remembers lies in a state, tensors [rows, ...] by name, so that a row can be moved, stored and gone
    on with. A row makes so many ``evaluations``, with a step in between; ``made`` says how many the last call of
    ``evaluate`` made, of all rows or of each [rows].
    """

    evaluations: int
    made: int | Tensor

    def begin(self, rows: Begun) -> State:
        """The state before the first evaluation."""

    def evaluate(self, state: State) -> Tensor:
        """Ask the network; return which rows claim that ``state["x"]`` is adversarial, [rows]."""

    def step(self, state: State) -> None:
        """Move on from the last evaluation."""


class Queue:
    """Searches for adversarial images of ``x``, ``copies`` an image, restarts or targets.

    Every pass is one batch. An image for which a copy has found something, confirmed by ``judge``, leaves with its
    higher copies; lower ones go on, so that what is found does not depend on which of them share a batch: it is the
    find of the lowest copy that has one. Rows that are free begin with the next pair of copy and image, copy by copy;
    when there are none left and an eighth of the rows stand idle, they leave the batch.

    Args:
        search: what each row does.
        judge: from images and classes to whether the images are misclassified [n].
        x, y: clean images [N, ...] and their classes [N], int64.
        eps: radii [N].
        targets: the class that each copy aims at [N, copies]; None without targets.
        sample_ids: identities of the images [N].
        copies: searches an image.
        batch_size: rows at most, see :func:`rows_in_a_pass`.

    Attributes:
        x: the adversarial images found so far, the clean ones where there is none [N, ...].
        copy: the copy that found each, a list of ints, -1 where none has.
        pairs: of image and copy.
        passes: passes made.
        evaluations: made in them, of all rows together.
    """

    def __init__(
        self,
        search: Search,
        judge: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        *,
        eps: Tensor,
        sample_ids: Tensor,
        batch_size: int,
        targets: Tensor | None = None,
        copies: int = 1,
    ) -> None:
        self._search, self._judge = search, judge
        self._clean, self._y, self._eps, self._ids = x, y, eps, sample_ids
        self._targets = y[:, None].expand(-1, copies) if targets is None else targets
        self.pairs = len(x) * copies
        # Batches of equal size: the last one is not nearly empty.
        batches = max(-(-self.pairs // batch_size), 1)
        self.x, self.copy, self.passes, self.evaluations = x.clone(), [-1] * len(x), 0, 0
        # On the host, for each row: its pair ``copy * N + image``, -1 where it is free, and its evaluations so far.
        self._pair = [-1] * -(-self.pairs // batches)
        self._age = [0] * len(self._pair)
        self._next = 0
        self._state: State = {}

    def run(self, watch: Callable[[Queue], object] | None = None) -> None:
        """Make all passes that are left; ``watch`` is called after each."""
        while self.advance():
            if watch is not None:
                watch(self)

    def advance(self) -> bool:
        """Make one pass; False, and none is made, where the search is over."""
        self._fill()
        if not self._busy():
            return False
        claims = self._search.evaluate(self._state)
        self.passes += 1
        made = self._search.made
        each = [made] * len(self._age) if isinstance(made, int) else made.tolist()
        for row in self._busy():
            self._age[row] += each[row]
            self.evaluations += each[row]
        self._take([row for row, claim in enumerate(claims.tolist()) if claim and self._pair[row] >= 0])
        self._close([row for row in self._busy() if self._age[row] == self._search.evaluations])
        if self._busy():
            self._search.step(self._state)
        return True

    def evaluations_left(self) -> int:
        """Return the largest number of evaluations that remain, of all rows together."""
        begun = sum(self._search.evaluations - self._age[row] for row in self._busy())
        return begun + self._search.evaluations * sum(map(self._wanted, range(self._next, self.pairs)))

    def state_dict(self) -> dict[str, Any]:
        """All that a queue of the same arguments needs to go on from here."""
        host = {"copy": self.copy, "pair": self._pair, "age": self._age}
        lists = {name: list(value) for name, value in host.items()}
        counts = {"next": self._next, "passes": self.passes, "evaluations": self.evaluations}
        return {"x": self.x.clone(), "rows": dict(self._state), **counts, **lists}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        # A copy: each find is written to it, and what was saved may be gone on with again.
        self.x = saved["x"].to(self._clean.device, copy=True)
        self._state = {name: value.to(self._clean.device) for name, value in saved["rows"].items()}
        self._next, self.passes, self.evaluations = saved["next"], saved["passes"], saved["evaluations"]
        self.copy, self._pair, self._age = (list(saved[name]) for name in ("copy", "pair", "age"))

    def _busy(self) -> list[int]:
        return [row for row, pair in enumerate(self._pair) if pair >= 0]

    def _wanted(self, pair: int) -> bool:
        copy, image = divmod(pair, len(self.copy))
        return not 0 <= self.copy[image] <= copy

    def _fill(self) -> None:
        """Let pairs that wait begin in the rows that are free."""
        free = [row for row, pair in enumerate(self._pair) if pair < 0]
        pairs: list[int] = []
        while len(pairs) < len(free) and self._next < self.pairs:
            if self._wanted(self._next):
                pairs.append(self._next)
            self._next += 1
        if free and not pairs:
            return self._shrink()
        if not pairs:
            return None
        rows = free[: len(pairs)]
        for row, pair in zip(rows, pairs, strict=True):
            self._pair[row], self._age[row] = pair, 0
        begun = self._search.begin(self._begun(pairs))
        if not self._state:
            self._state = begun
            return None
        at = torch.tensor(rows, device=self._clean.device)
        for name, value in begun.items():
            self._state[name] = self._state[name].index_copy(0, at, value)
        return None

    def _begun(self, pairs: list[int]) -> Begun:
        pair = torch.tensor(pairs, device=self._clean.device)
        image, copy = pair % len(self.copy), pair // len(self.copy)
        ids = self._ids[image] + (copy << 32)
        return Begun(self._clean[image], self._y[image], self._eps[image], self._targets[image, copy], ids, copy)

    def _shrink(self) -> None:
        """Leave the idle rows out, where there are enough of them to be worth a batch of another shape."""
        busy, rows = self._busy(), len(self._pair)
        if not busy or _IDLE * (rows - len(busy)) < rows:
            return
        at = torch.tensor(busy, device=self._clean.device)
        self._state = {name: value[at] for name, value in self._state.items()}
        self._pair, self._age = [self._pair[row] for row in busy], [self._age[row] for row in busy]

    def _take(self, rows: list[int]) -> None:
        """Record those of ``rows``, which claim to have found something, that the judge confirms."""
        if not rows:
            return
        at = torch.tensor(rows, device=self._clean.device)
        images = self._state["x"][at]
        for row, image, holds in zip(rows, images, self._judge(images, self._state["y"][at]).tolist(), strict=True):
            if holds and self._pair[row] >= 0:
                copy, sample = divmod(self._pair[row], len(self.copy))
                self.x[sample], self.copy[sample] = image, copy
                self._close([other for other in self._busy() if not self._wanted(self._pair[other])])

    def _close(self, rows: list[int]) -> None:
        """These rows are done."""
        for row in rows:
            self._pair[row] = -1
