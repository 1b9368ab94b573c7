"""Lists that page by themselves."""

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
"""Takes limit and offset; gives a page, and where it stands in the whole, if the server says so."""
FetchAfter = Callable[[C | None], Awaitable[tuple[Sequence[T], C | None]]]
"""Takes where a page begins; gives it, and where the next one does, None after the last."""


@define(eq=False)
class Listing(Generic[T]):
    """The items of pages, which are fetched as they are asked for."""

    _pages: AsyncGenerator[Sequence[T]]
    _ready: deque[T] = field(factory=deque[T], init=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            self._ready.extend(await anext(self._pages))
        return self._ready.popleft()

    def at_hand(self) -> list[T]:
        """The rest of the page, which is then taken."""
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
    """All items of a list, newest first. What comes into being meanwhile, and moves the others to
    later pages, makes none come twice.

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
        # a server that tells no total shows the end by a page with nothing new: an empty one, or
        # the same again where it ignores offset
        if not fresh or (cursor is not None and offset >= cursor.total_count):
            return
        before = frozenset(map(id_of, items))


def search_results(fetch: FetchAfter[C, T], first: C | None) -> Listing[T]:
    """Returns all that a search finds, from where its first page begins, fetched as it is asked
    for.
    """
    return Listing(_searched(fetch, first))


async def _searched(fetch: FetchAfter[C, T], cursor: C | None) -> AsyncGenerator[Sequence[T]]:
    while True:
        items, after = await fetch(cursor)
        yield items
        if after is None or after == cursor:
            return
        cursor = after
