"""`iterate`: an asynchronous generator of the portal's loop, as an iterator for any other
thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from attrs import define, field

from tinkex.errors import TinkexError
from tinkex.portal.portal import Portal

T = TypeVar("T")


def iterate(portal: Portal, begin: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
    """The items of the asynchronous generator that `begin` makes on the portal's loop, pulled one
    at a time, or more where it has more `AtHand`.

    What `begin` raises is raised here, at the call. Leaving a `for` loop early closes the generator
    and waits until it has ended, as soon as nothing refers to the iterator any more;
    `contextlib.closing` does it without fail. An interrupt (Ctrl-C) while an item is waited for
    ends the generator.
    """
    return _pull_all(portal, _Source(portal.call(begin)))


def _pull_all(portal: Portal, source: _Source[T]) -> Iterator[T]:
    try:
        while not isinstance(pulled := portal.run(source.pull), _End):
            yield from pulled
        if pulled.error is not None:
            raise pulled.error
    finally:
        # Where the portal refuses there is nothing to close here: it was closed itself and has
        # cancelled all, or this is the child of a fork, or the iterator is collected as garbage on
        # the loop's thread, and asyncio then closes the generator.
        with suppress(TinkexError):
            portal.run(source.close)


@runtime_checkable
class AtHand(Protocol[T]):
    """An iterator that often has several items: a visit to the loop takes longer than the items of
    a page are worth.
    """

    def at_hand(self) -> list[T]:
        """The items that need not be waited for, which are then taken."""
        ...


@define
class _End:
    """No more items. `error` is an exit that would stop the loop for all its users if it were
    raised there.
    """

    error: BaseException | None = None


@define(eq=False)
class _Source(Generic[T]):
    """A generator that one coroutine uses at a time: a pull that was interrupted has to end before
    the generator can be closed.
    """

    items: AsyncIterator[T]
    _lock: asyncio.Lock = field(factory=asyncio.Lock)

    async def pull(self) -> list[T] | _End:
        async with self._lock:
            try:
                first = await anext(self.items)
                return [first, *self.items.at_hand()] if isinstance(self.items, AtHand) else [first]
            except StopAsyncIteration:
                return _End()
            except (KeyboardInterrupt, SystemExit) as error:
                return _End(error)

    async def close(self) -> None:
        async with self._lock:
            aclose: Callable[[], Any] | None = getattr(self.items, "aclose", None)
            if aclose is not None:
                await aclose()
