"""`ClientFuture`: a future of a client that can be used as that client."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from tinkex.dropin.futures import APIFuture
from tinkex.portal.future import APIFuture as TinkexFuture
from tinkex.portal.portal import Portal

C = TypeVar("C")


class ClientFuture(APIFuture[C]):
    """A future of a client that is being created.

    A class that derives from this one and from the client's class is a client as well. Its public
    members wait for the client as soon as they are named, in the thread that names them: the event
    loop, on which their calls run, creates the client.
    """

    def __init__(self, made: TinkexFuture[C], portal: Portal) -> None:
        self._made = made
        self._portal = portal

    @property
    def _client(self) -> Any:
        """The asyncio client, for the methods of the client's class."""
        made: Any = self._made.result()
        return made._client

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and name not in _OF_THE_FUTURE:
                self._made.result()
            return super().__getattribute__(name)

    def result(self, timeout: float | None = None) -> C:
        """Waits for the client and returns it, or raises why it could not be created.

        Raises:
            WaitTimeoutError: the client was not there after `timeout` seconds.
        """
        return self._made.result(timeout)

    async def result_async(self, timeout: float | None = None) -> C:
        """Returns what `result` returns, without blocking the event loop."""
        return await self._made.result_async(timeout)

    async def coroutine(self) -> C:
        """Awaits the client, for functions that accept only coroutines."""
        return await self._made

    def future(self) -> Future[C]:
        """Returns a future of the standard library. Cancelling it cancels the creation."""
        return self._made.future()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} done={self._made.done()}>"

    def __reduce__(self) -> tuple[Callable[[C], C], tuple[C]]:
        return _itself, (self.result(),)


_OF_THE_FUTURE = frozenset({"result", "result_async", "coroutine", "future"})


def _itself(client: C) -> C:
    return client
