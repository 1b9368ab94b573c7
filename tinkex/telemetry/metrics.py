"""`Metrics`: counters and latency histograms that the program itself reads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from attrs import define, field

from tinkex import events

_BOUNDS = tuple(0.001 * 2.0**n for n in range(20))
"""The upper bounds of the buckets in seconds, from a millisecond to nine minutes.

Each is twice the one before. One more bucket counts longer durations.
"""


@define
class Histogram:
    """A histogram of durations, with buckets of exponentially growing width."""

    count: int = 0
    total: float = 0.0
    """The sum of all durations, in seconds."""
    longest: float = 0.0
    """The longest duration, in seconds."""
    buckets: list[int] = field(factory=lambda: [0] * (len(_BOUNDS) + 1), repr=False)

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self.buckets[bisect_left(_BOUNDS, seconds)] += 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Returns an upper bound, in seconds, on this share of the durations.

        The result is the upper bound of a bucket, and at most twice the true quantile for durations
        above a millisecond.
        """
        wanted, so_far = share * self.count, 0
        for bound, bucket in zip((*_BOUNDS, self.longest), self.buckets, strict=True):
            so_far += bucket
            if so_far >= wanted:
                return min(bound, self.longest)
        return self.longest

    def copy(self) -> Histogram:
        return Histogram(self.count, self.total, self.longest, list(self.buckets))


@define(eq=False)
class Metrics:
    """A handler that counts events and collects their latencies. It is thread-safe.

    Example:
        >>> metrics = Metrics()
        >>> metrics(events.HttpRequestStop(operation="sample", status=200, seconds=0.2))
        >>> metrics.counters["http.request.stop sample 200"]
        1
        >>> metrics.latencies["http.request sample"].mean
        0.2
    """

    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _counters: Counter[str] = field(init=False, factory=Counter[str])
    _latencies: dict[str, Histogram] = field(init=False, factory=dict[str, Histogram])

    def __call__(self, event: events.Event) -> None:
        with self._lock:
            match event:
                case events.HttpRequestStop():
                    self._count(event.name, event.operation, event.status)
                    self._took("http.request", event.operation, event.seconds)
                case events.HttpRequestException():
                    self._count(event.name, event.operation, event.error)
                    self._took("http.request", event.operation, event.seconds)
                case events.TrainingStep():
                    self._count(event.name, event.operation, event.error or "done")
                    self._took(event.name, event.operation, event.seconds)
                case events.SamplingDone():
                    self._count(event.name, event.error or "done")
                    self._counters["sampling.tokens"] += event.tokens
                    self._took(event.name, "", event.seconds)
                case events.Session():
                    self._count(event.name, event.state)
                case events.QueueStateChange():
                    self._count(event.name, event.queue_state)
                case events.HttpRequestStart() | events.Retry():
                    self._count(event.name, event.operation)
                case events.Wait():
                    self._count(event.name, event.facts.operation)

    @property
    def counters(self) -> Mapping[str, int]:
        """A copy of the counters, by event name, operation and outcome."""
        with self._lock:
            return dict(self._counters)

    @property
    def latencies(self) -> Mapping[str, Histogram]:
        """A copy of the latency histograms, by event name and operation."""
        with self._lock:
            return {name: histogram.copy() for name, histogram in self._latencies.items()}

    def _count(self, *parts: object) -> None:
        self._counters[" ".join(map(str, parts))] += 1

    def _took(self, name: str, operation: str, seconds: float) -> None:
        self._latencies.setdefault(f"{name} {operation}".strip(), Histogram()).add(seconds)
