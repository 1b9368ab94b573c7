"""`BatchOrder`: which rows each step trains on. It follows from the seed alone, so that a resumed
run goes on with the rows that come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

T = TypeVar("T")


@frozen
class BatchOrder:
    """The order of `rows` rows: each epoch is a permutation of its own, and every batch is full.

    Example:
        >>> order = BatchOrder(rows=5, batch_size=3, seed=0)
        >>> sorted(order.places(0) + order.places(1)[:2])  # the first epoch
        [0, 1, 2, 3, 4]
    """

    rows: int
    batch_size: int
    seed: int

    def places(self, step: int) -> list[int]:
        """Returns the places of the rows of a step, counted from 0."""
        first = step * self.batch_size
        return [self._place(position) for position in range(first, first + self.batch_size)]

    def batch(self, step: int, rows: Sequence[T]) -> list[T]:
        """Returns the rows of a step."""
        return [rows[place] for place in self.places(step)]

    def _place(self, position: int) -> int:
        epoch, place = divmod(position, self.rows)
        return int(_permutation(self.rows, self.seed, epoch)[place])


@lru_cache(maxsize=4)
def _permutation(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)
