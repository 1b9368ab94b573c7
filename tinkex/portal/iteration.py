"""`iterate`: an iterator, for any thread, over an asynchronous generator on the portal's loop."""

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
    """Returns an iterator over the async generator that `begin` creates on the portal's loop.

    It pulls one item at a time, or several if the generator is an `AtHand`. An error of `begin` is
    raised at the call. When the iterator is garbage-collected, for example after an early exit from
    a `for` loop, it closes the generator and waits until it has ended; `contextlib.closing`
    guarantees this. An interrupt (Ctrl-C) while waiting for an item ends the generator.
    """
    return _pull_all(portal, _Source(portal.call(begin)))


_in_use: set[_Source[Any]] = set()
"""The sources of iterators that have begun. It keeps a generator from being garbage-collected
together with its iterator: asyncio would then close it as well, at the same time.
"""


def _pull_all(portal: Portal, source: _Source[T]) -> Iterator[T]:
    _in_use.add(source)
    try:
        while not isinstance(pulled := portal.run(source.pull), _End):
            yield from pulled
        if pulled.error is not None:
            raise pulled.error
    finally:
        # If the portal refuses the call, there is nothing to close: the portal was closed and has
        # cancelled everything, or this process is a fork, or the iterator is garbage-collected in
        # the loop's thread, where asyncio closes the generator.
        try:
            with suppress(TinkexError):
                portal.run(source.close)
        finally:
            _in_use.discard(source)


@runtime_checkable
class AtHand(Protocol[T]):
    """An iterator that often has several items ready.

    Taking them together is faster, because each call to the loop costs more than an item.
    """

    def at_hand(self) -> list[T]:
        """Takes and returns the items that are ready."""
        ...


@define
class _End:
    """The end of the items.

    `error` is a `KeyboardInterrupt` or `SystemExit`, which would stop the loop if it were raised
    there, and is raised in the caller's thread instead.
    """

    error: BaseException | None = None


@define(eq=False)
class _Source(Generic[T]):
    """A generator that only one coroutine uses at a time.

    The lock makes `close` wait until an interrupted `pull` has ended.
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
