"""Types of arguments that several commands take: durations and times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # which is generic since click 8.5 only

_SECONDS: Mapping[str, int] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Duration(_ParamType):
    """A duration: seconds, or a number with a unit, as in `90`, `30m`, `12h`, `7d` and `2w`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([smhdw]?)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a duration such as 3600, 30m, 12h, 7d or 2w", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]


class Time(_ParamType):
    """A date or a time in ISO 8601, in UTC where it names no zone: `2026-11-01`."""

    name = "date"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(str(value).strip())
        except ValueError:
            self.fail(f"{value!r} is not a date such as 2026-11-01, or a time", param, ctx)
        return time if time.tzinfo else time.replace(tzinfo=UTC)


def seconds_as_text(seconds: float) -> str:
    """Returns a duration in its largest whole unit: "7d", "90s"."""
    whole = int(seconds)
    for unit in ("w", "d", "h", "m"):
        if whole and whole % _SECONDS[unit] == 0:
            return f"{whole // _SECONDS[unit]}{unit}"
    return f"{whole}s"
