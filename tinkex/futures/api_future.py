"""`AsyncAPIFuture`: what a call that changes a model or asks for samples gives back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from tinkex.futures.poller import RequestState

T = TypeVar("T")


class AsyncAPIFuture(Generic[T]):
    """The result to come of one call. Await it, now or later, once or often.

    Giving up an await does not cancel the request: a training step that was sent is not undone by looking away. `cancel()` does
    stop waiting for it.
    """

    def __init__(self, work: Coroutine[Any, Any, T], state: RequestState) -> None:
        self._task = asyncio.ensure_future(work)
        self._state = state

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.shield(self._task).__await__()

    def done(self) -> bool:
        return self._task.done()

    def cancel(self) -> bool:
        """Stops waiting for the result; False when it is there already."""
        return self._task.cancel()

    def add_done_callback(self, callback: Callable[[AsyncAPIFuture[T]], object]) -> None:
        """Calls `callback(future)` on the event loop once the result, or the error, is there."""
        self._task.add_done_callback(lambda _: callback(self))

    @property
    def request_id(self) -> str | None:
        """The server's name for the request; None until it took the request on."""
        return self._state.request_id

    @property
    def queue_state(self) -> str | None:
        """How the request waits, in the server's words: `active`, `paused_capacity`, `paused_rate_limit`."""
        return self._state.queue_state

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.operation} request_id={self.request_id} done={self.done()}>"
