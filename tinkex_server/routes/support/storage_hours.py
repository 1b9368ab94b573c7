"""`stored_hours`: the storage that checkpoints used, hour by hour. Plain values: no
clock, no store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from attrs import frozen

from tinkex_server.store import StoredSpan

HOUR = 3600  # seconds
_GIGABYTE = 1e9


@frozen
class Attribution:
    """The session and base model that storage is counted for, with whose they are."""

    owner: str
    session_id: str
    base_model: str
    project_id: str | None


@frozen
class StoredHour:
    """The storage that a session's checkpoints used in the hour that begins at `hour`."""

    hour: int
    attribution: Attribution
    gigabyte_hours: float


def stored_hours(
    spans: Sequence[StoredSpan], first: float, last: float, now: float
) -> Iterator[StoredHour]:
    """Yields the storage for the hours from `first` to before `last`, up to `now`. Hours in which
    a session stored nothing are left out.
    """
    attributions = [
        Attribution(span.owner, span.session_id, span.base_model, span.project_id) for span in spans
    ]
    numbers = {one: number for number, one in enumerate(dict.fromkeys(attributions))}
    places = np.array([numbers[one] for one in attributions], np.int64)
    gigabytes = np.array([span.size_bytes for span in spans], np.float64) / _GIGABYTE
    starts = np.array([span.start for span in spans], np.float64)
    ends = np.array([now if span.end is None else span.end for span in spans], np.float64)
    for hour in range(int(first), int(min(last, now)), HOUR):
        lasted = np.clip(np.minimum(ends, hour + HOUR) - np.maximum(starts, hour), 0, None) / HOUR
        totals = np.bincount(places, gigabytes * lasted, len(numbers))
        yield from (
            StoredHour(hour, attribution, float(total))
            for attribution, total in zip(numbers, totals, strict=True)
            if total
        )
