"""`Loads`: a cache in which concurrent requests for the same key share one load."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T")

_KEPT = 16
_FAILURE_KEPT = 60.0  # seconds


class AbandonedLoad(Exception):
    """The end of a load whose caller is gone, which says nothing about the value."""


@define(eq=False)
class Loads(Generic[T]):
    """A thread-safe cache of loaded values.

    The first caller for a key loads the value; concurrent callers wait for it. Failures are cached
    for a minute.
    """

    now: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _loads: dict[Hashable, Future[T]] = field(init=False, factory=dict[Hashable, "Future[T]"])
    _failed_at: dict[Hashable, float] = field(init=False, factory=dict[Hashable, float])

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        """Returns the value of a key, loading it if necessary.

        An error of `load` is raised, and raised again for a minute without calling `load`. Only
        `AbandonedLoad` is neither cached nor shared: the callers that wait load the value
        themselves.
        """
        with self._lock:
            if self.now() - self._failed_at.get(key, self.now()) >= _FAILURE_KEPT:
                self._forget(key)
            under_way = self._loads.get(key)
            ours: Future[T] = Future()
            if under_way is None:
                self._loads[key] = ours
        if under_way is None:
            return self._load(key, load, ours)
        try:
            return _result(under_way)
        except AbandonedLoad:
            return self.get(key, load)

    def all_ready(self) -> list[tuple[Hashable, T]]:
        """Returns the keys and values that are loaded. It does not wait."""
        with self._lock:
            keys = list(self._loads)
        values = ((key, self.ready(key)) for key in keys)
        return [(key, value) for key, value in values if value is not None]

    def ready(self, key: Hashable) -> T | None:
        """Returns the value of a key if it is loaded, or None. It does not wait."""
        done = self._loads.get(key)
        return (
            done.result() if done is not None and done.done() and done.exception() is None else None
        )

    def _load(self, key: Hashable, load: Callable[[], T], ours: Future[T]) -> T:
        try:
            loaded = load()
        except BaseException as error:
            with self._lock:
                self._failed_at[key] = self.now()
                # An interrupt is not a failure of the load, so it is not cached.
                if isinstance(error, AbandonedLoad) or not isinstance(error, Exception):
                    self._forget(key)
            ours.set_exception(error)
            raise
        ours.set_result(loaded)
        with self._lock:
            while len(self._loads) > _KEPT:
                self._forget(next(iter(self._loads)))
        return loaded

    def _forget(self, key: Hashable) -> None:
        self._loads.pop(key, None)
        self._failed_at.pop(key, None)


def _result(load: Future[T]) -> T:
    """Waits for a load and returns its value, or raises a copy of its error.

    Several threads may raise the error at the same time, and each needs a traceback of its own.
    """
    error = load.exception()
    if error is None:
        return load.result()
    raise copy.copy(error) from error.__cause__
