"""Pages of lists, by `limit` and `offset` in the query."""

from __future__ import annotations

from collections.abc import Mapping

from tinkex.local.errors import Refused

_LONGEST = 1000


def page(query: Mapping[str, str], *, limit: int) -> tuple[int, int]:
    """Limit (this one by default) and offset. Raises `Refused` for what are no such numbers."""
    return min(_number(query, "limit", limit), _LONGEST), _number(query, "offset", 0)


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        problem: dict[str, object] = {"loc": ["query", name], "msg": "must be a whole number, 0 or more", "type": "value_error"}
        raise Refused(422, [problem])
    return int(text)
