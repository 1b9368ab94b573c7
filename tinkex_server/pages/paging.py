"""`Pages`: which part of a long list a page shows, and the way to the other parts."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from attrs import frozen


@frozen
class Pages:
    """A part of a list of `total` items, `size` on a page; `number` counts from 1."""

    number: int
    size: int
    total: int
    query: Mapping[str, str]
    """The other parameters of the URL."""

    @property
    def offset(self) -> int:
        """The number of items before this page."""
        return (self.number - 1) * self.size

    @property
    def first(self) -> int:
        """The number of the first item of the page, from 1."""
        return self.offset + 1

    @property
    def last(self) -> int:
        """The number of the last item of the page."""
        return min(self.offset + self.size, self.total)

    @property
    def count(self) -> int:
        """The number of pages."""
        return max(1, -(-self.total // self.size))

    def url(self, number: int) -> str:
        """Returns the URL of another page."""
        page = {"page": str(number)} if number > 1 else {}
        return "?" + urlencode({**self.query, **page})


def pages(asked: str, size: int, total: int, query: Mapping[str, str] | None = None) -> Pages:
    """Returns the page that a URL asks for, or the nearest that there is."""
    number = int(asked) if asked.isdecimal() and len(asked) < 8 else 1
    last = max(1, -(-total // size))
    return Pages(min(max(1, number), last), size, total, query or {})
