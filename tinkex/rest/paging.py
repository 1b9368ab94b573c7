"""Iterators over lists that the server sends page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Generic, Self, TypeVar

from attrs import define, field

from tinkex.types import Cursor
from tinkex.types.number_checks import check_int

T = TypeVar("T")
C = TypeVar("C")

PAGE_SIZE = 100

FetchPage = Callable[[int, int], Awaitable[tuple[Sequence[T], Cursor | None]]]
"""A function of limit and offset; returns a page, and its cursor if the server sends one."""
FetchAfter = Callable[[C | None], Awaitable[tuple[Sequence[T], C | None]]]
"""A function of the cursor of a page; returns the page, and the cursor of the next one, or None
after the last.
"""


@define(eq=False)
class Listing(Generic[T]):
    """An iterator over the items of pages, each fetched when it is needed."""

    _pages: AsyncGenerator[Sequence[T]]
    _ready: deque[T] = field(factory=deque[T], init=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            self._ready.extend(await anext(self._pages))
        return self._ready.popleft()

    def at_hand(self) -> list[T]:
        """Takes the remaining items of the current page, and returns them."""
        taken = list(self._ready)
        self._ready.clear()
        return taken

    async def aclose(self) -> None:
        await self._pages.aclose()


def check_page(limit: int, offset: int) -> None:
    """Raises `InvalidInputError`, naming the field, for a limit or an offset below 0."""
    check_int("limit", limit, 0)
    check_int("offset", offset, 0)


def listing(fetch: FetchPage[T], id_of: Callable[[T], str], page_size: int) -> Listing[T]:
    """Returns all items of a list, newest first. No item comes twice when new ones are added
    meanwhile, which moves the others to later pages.

    Raises `InvalidInputError` for a page size below 1.
    """
    check_int("page_size", page_size, 1)
    return Listing(_pages(fetch, id_of, page_size))


async def _pages(
    fetch: FetchPage[T], id_of: Callable[[T], str], page_size: int
) -> AsyncGenerator[Sequence[T]]:
    offset, before = 0, frozenset[str]()
    while True:
        items, cursor = await fetch(page_size, offset)
        fresh = [item for item in items if id_of(item) not in before]
        yield fresh
        offset += len(items)
        # a server that sends no total marks the end by a page with nothing new: an empty one, or
        # the same page again where it ignores the offset
        if not fresh or (cursor is not None and offset >= cursor.total_count):
            return
        before = frozenset(map(id_of, items))


def search_results(fetch: FetchAfter[C, T], first: C | None) -> Listing[T]:
    """Returns all items that a search finds, from the page of the cursor `first` on."""
    return Listing(_search_pages(fetch, first))


async def _search_pages(fetch: FetchAfter[C, T], cursor: C | None) -> AsyncGenerator[Sequence[T]]:
    while True:
        items, after = await fetch(cursor)
        yield items
        if after is None or after == cursor:
            return
        cursor = after
