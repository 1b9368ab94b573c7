"""`Selection`: which checkpoints a bulk deletion takes, and which of them it keeps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

Row = dict[str, Any]


@frozen(kw_only=True)
class Selection:
    """The conditions of a bulk deletion. A checkpoint is taken that meets all of them."""

    kind: str | None = None
    before: datetime | None = None
    after: datetime | None = None
    keep_last: int | None = None
    """The number of the newest checkpoints that are kept, of each run and kind."""
    keep_best: int | None = None
    """The number of the best checkpoints that are kept, of each run and kind."""
    metric: str | None = None
    """The name of the number in a checkpoint's metadata that says how good it is."""
    highest: bool = False
    """Whether the highest number is the best, and not the lowest."""

    def taken(self, rows: Sequence[Row]) -> list[Row]:
        """Returns the checkpoints to delete, in the order given."""
        kept = self._kept(rows)
        return [row for row in rows if row["path"] not in kept and self._matches(row)]

    def unrated(self, rows: Sequence[Row]) -> int:
        """Returns how many checkpoints lack the metric. They are kept."""
        if self.keep_best is None:
            return 0
        return sum(self._rating(row) is None for row in rows if self._matches(row))

    def _matches(self, row: Row) -> bool:
        time = _utc(row["time"])
        if self.kind is not None and row["kind"] != self.kind:
            return False
        if (self.before or self.after) and time is None:
            return False  # The server does not say when it was saved.
        if self.before and time and time >= self.before:
            return False
        return not (self.after and time and time <= self.after)

    def _kept(self, rows: Sequence[Row]) -> set[str]:
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            groups[row["run"], row["kind"]].append(row)
        kept: set[str] = set()
        for group in groups.values():
            if self.keep_last is not None:
                kept |= _paths(_first(group, self.keep_last, _age))
            if self.keep_best is not None:
                rated = [row for row in group if self._rating(row) is not None]
                kept |= _paths(_first(rated, self.keep_best, self._badness))
                kept |= _paths([row for row in group if self._rating(row) is None])
        return kept

    def _badness(self, row: Row) -> float:
        rating = self._rating(row)
        assert rating is not None
        return -rating if self.highest else rating

    def _rating(self, row: Row) -> float | None:
        """Returns the metric of a checkpoint; None where it has none, or none that is a number."""
        try:
            rating = float(row["user_metadata"][self.metric])
        except (KeyError, ValueError):
            return None
        return rating if math.isfinite(rating) else None


def _first(rows: Sequence[Row], number: int, key: Callable[[Row], float]) -> list[Row]:
    return sorted(rows, key=key)[:number]


def _age(row: Row) -> float:
    """Returns a key that sorts the newest first, and those of unknown time before all: kept."""
    time = _utc(row["time"])
    return -math.inf if time is None else -time.timestamp()


def _paths(rows: Sequence[Row]) -> set[str]:
    return {row["path"] for row in rows}


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
