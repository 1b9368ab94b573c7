"""What stands in the query of a URL. Each function raises `Refused` (422), naming the field, for
what cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from tinkex_server.errors import Refused

_LONGEST = 1000


def page(query: Mapping[str, str], *, limit: int) -> tuple[int, int]:
    """Limit (this one by default) and offset of a page."""
    return min(_number(query, "limit", limit), _LONGEST), _number(query, "offset", 0)


def accessible(query: Mapping[str, str]) -> bool:
    """Whether all that the caller may read is asked for, and not its own alone."""
    return one_of(query, "access_scope", ("owned", "accessible")) == "accessible"


def one_of(query: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    """One of these, the first by default."""
    value = query.get(name, values[0])
    if value not in values:
        raise _wrong(name, f"must be one of {', '.join(values)}")
    return value


def day(query: Mapping[str, str], name: str, today: date) -> tuple[datetime, datetime]:
    """The begin of a day in UTC, and of the next."""
    try:
        value = date.fromisoformat(query.get(name, today.isoformat()))
        start = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return start, start + timedelta(days=1)
    except (ValueError, OverflowError):
        raise _wrong(name, "must be a day, as YYYY-MM-DD") from None


def hours(
    query: Mapping[str, str], start: str, end: str, *, most: timedelta
) -> tuple[datetime, datetime]:
    """Two full hours in UTC, the second after the first and not too far from it."""
    first, last = _hour(query, start), _hour(query, end)
    if not timedelta() < last - first <= most:
        raise _wrong(end, f"must be after {start}, by {most.days} days at most")
    return first, last


def _hour(query: Mapping[str, str], name: str) -> datetime:
    try:
        value = datetime.fromisoformat(query.get(name, ""))
    except ValueError:
        raise _wrong(name, "must be a time in ISO 8601") from None
    if (
        value.tzinfo is None
        or value.utcoffset()
        or (value.minute, value.second, value.microsecond) != (0, 0, 0)
    ):
        raise _wrong(name, "must be a full hour in UTC, as 2026-01-01T00:00:00Z")
    return value.astimezone(UTC)


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _wrong(name, "must be a whole number, 0 or more")
    return int(text)


def _wrong(name: str, message: str) -> Refused:
    problem: dict[str, object] = {"loc": ["query", name], "msg": message, "type": "value_error"}
    return Refused(422, [problem])
