"""Sizes, times and numbers as text for people."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size(count: int) -> str:
    """Formats a number of bytes in decimal units, as in "1.2 MB"."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    digits = 0 if unit == "B" or value >= 99.95 else 1
    return f"{value:.{digits}f} {unit}"


def span(seconds: float) -> str:
    """Formats a duration in its largest unit, as in "3 min"."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds / length)} {unit}"
    return "0 s"


def moment(seconds: float) -> str:
    """Formats seconds since 1970 as a date and a time of day, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float) -> str:
    """Formats a number with three significant digits, as in "0.00712"."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
