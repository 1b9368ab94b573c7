"""`Generations`: the weights that sampler ids stand for, and older ones that samples still use."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from tinkex_server.engine.interface import InvalidRequest

T = TypeVar("T")


class Generations(Generic[T]):
    """The weights of each sampler id. Those that are replaced or removed are dropped once no sample
    uses them. May be used from any thread.

    Args:
        drop: called, without a lock, with weights that nobody will use any more.
    """

    def __init__(self, drop: Callable[[T], None]) -> None:
        self._drop = drop
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the rest
        self._present: dict[str, tuple[int, T]] = {}  # by sampler id, with the generation
        self._users: Counter[T] = Counter()  # the samples under way
        self._retired: set[T] = set()  # to be dropped after their samples

    def next(self) -> int:
        """Returns the number of a new generation, larger than those before."""
        return next(self._numbers)

    def put(self, sampler_id: str, number: int, weights: T) -> None:
        """Lets the id stand for these weights, unless it has those of a later generation."""
        with self._lock:
            before = self._present.get(sampler_id)
            if before and before[0] > number:
                retired = [weights]
            else:
                self._present[sampler_id] = number, weights
                retired = [before[1]] if before else []
        self._retire(retired)

    def remove(self, sampler_id: str) -> None:
        """Forgets an id. Ignores an unknown one."""
        with self._lock:
            before = self._present.pop(sampler_id, None)
        self._retire([before[1]] if before else [])

    def take(self, sampler_id: str) -> T:
        """Returns the weights that the id stands for now, which stay until they are given back.
        Raises `InvalidRequest` for an unknown id.
        """
        with self._lock:
            if sampler_id not in self._present:
                raise InvalidRequest(f"unknown sampler {sampler_id!r}")
            weights = self._present[sampler_id][1]
            self._users[weights] += 1
            return weights

    def give_back(self, weights: T) -> None:
        """Ends one use of the weights."""
        with self._lock:
            self._users[weights] -= 1
            if not self._users[weights]:
                del self._users[weights]
            unused = weights in self._retired and weights not in self._users
            if unused:
                self._retired.discard(weights)
        if unused:
            self._drop(weights)

    def _retire(self, retired: list[T]) -> None:
        for weights in retired:
            with self._lock:
                in_use = weights in self._users
                if in_use:
                    self._retired.add(weights)
            if not in_use:
                self._drop(weights)
