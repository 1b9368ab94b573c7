"""Readers of the parameters in a URL's query. Each function raises `Refused` with the name of
a parameter that cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from tinkex_server.errors import Reason, Refused

_LONGEST = 1000


def page(query: Mapping[str, str], *, limit: int) -> tuple[int, int]:
    """Returns limit, by default this one, and offset of a page."""
    return min(number(query, "limit", limit), _LONGEST), number(query, "offset", 0)


def number(query: Mapping[str, str], name: str, default: int) -> int:
    """Returns a whole number from 0 on."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _wrong(name, "must be a whole number, 0 or more")
    return int(text)


def accessible(query: Mapping[str, str]) -> bool:
    """Returns whether the caller asks for all that it may read, and not only for its own."""
    return one_of(query, "access_scope", ("owned", "accessible")) == "accessible"


def one_of(query: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    """Returns a parameter that must be one of these values, by default the first."""
    value = query.get(name, values[0])
    if value not in values:
        raise _wrong(name, f"must be one of {', '.join(values)}")
    return value


def day(query: Mapping[str, str], name: str, today: date) -> tuple[datetime, datetime]:
    """Returns the beginning of a day in UTC, and that of the next day."""
    try:
        value = date.fromisoformat(query.get(name, today.isoformat()))
        start = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return start, start + timedelta(days=1)
    except (ValueError, OverflowError):
        raise _wrong(name, "must be a day in the form YYYY-MM-DD") from None


def hours(
    query: Mapping[str, str], start: str, end: str, *, most: timedelta
) -> tuple[datetime, datetime]:
    """Returns two full hours in UTC, the second later than the first, but by `most` at most."""
    first, last = _hour(query, start), _hour(query, end)
    if not timedelta() < last - first <= most:
        raise _wrong(end, f"must be later than {start}, by {most.days} days at most")
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
        raise _wrong(name, "must be a full hour in UTC, such as 2026-01-01T00:00:00Z")
    return value.astimezone(UTC)


def _wrong(name: str, message: str) -> Refused:
    problem: dict[str, object] = {"loc": ["query", name], "msg": message, "type": "value_error"}
    return Refused(Reason.MALFORMED, [problem])
