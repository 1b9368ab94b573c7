"""Server-sent events, which stream a sample to a client token by token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Protocol

import orjson
from tinkex_api.models import SampleStreamEvent

from tinkex_server.engine.interface import EngineDied, InvalidRequest, OnToken, SampleResult
from tinkex_server.loop_calls import call_on_loop

logger = logging.getLogger("tinkex.local")

_COMMENT_AFTER = 10.0  # seconds without an event, so that nobody takes the connection for dead
_COMMENT = b": waiting\n\n"


class SampleEvents(Protocol):
    """The form of the events of a sample. Its methods are called in turn, on the engine's
    thread.
    """

    def token(self, token: int, logprob: float) -> Mapping[str, object]:
        """Returns the event of a token."""
        ...

    def end(self, result: SampleResult) -> Mapping[str, object]:
        """Returns the last event of a sample that has succeeded."""
        ...


class ContractEvents:
    """The events that the contract describes as `SampleStreamEvent`."""

    def token(self, token: int, logprob: float) -> Mapping[str, object]:
        return SampleStreamEvent(tokens=[token], logprobs=[logprob]).to_dict()

    def end(self, result: SampleResult) -> Mapping[str, object]:
        return SampleStreamEvent(stop_reason=result.sequences[0].stop_reason).to_dict()


class EventStream:
    """The events of one sample. It is used on the event loop's thread alone."""

    def __init__(
        self,
        begin: Callable[[OnToken], Future[SampleResult]],
        events: SampleEvents | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._events = events or ContractEvents()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sample = begin(self._on_token)
        self._sample.add_done_callback(self._end)

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yields the bytes to send. When it is closed, as it is when the client has disconnected,
        the sample is cancelled.
        """
        try:
            while (event := await self._next()) is not None:
                yield event
        finally:
            self._sample.cancel()

    async def _next(self) -> bytes | None:
        try:
            return await asyncio.wait_for(self._queue.get(), _COMMENT_AFTER)
        except TimeoutError:
            return _COMMENT

    def _on_token(self, token: int, logprob: float) -> None:
        # called on the engine's thread, as is `_end`
        self._put(server_sent_event(self._events.token(token, logprob)))

    def _end(self, sample: Future[SampleResult]) -> None:
        self._put(server_sent_event(self._last_event(sample)))
        self._put(None)

    def _put(self, event: bytes | None) -> None:
        call_on_loop(self._loop, self._queue.put_nowait, event)

    def _last_event(self, sample: Future[SampleResult]) -> Mapping[str, object]:
        try:
            return self._events.end(sample.result())
        except CancelledError:
            error, category = "the sampling was cancelled", "server"
        except InvalidRequest as refused:
            error, category = str(refused), "user"
        except EngineDied as died:
            error, category = str(died), "server"
        except Exception as failure:
            logger.exception("a stream of tokens failed")
            error = f"the sampling failed in the server: {type(failure).__name__}"
            category = "server"
        return SampleStreamEvent(error=error, category=category).to_dict()


def server_sent_event(value: object) -> bytes:
    """Returns the bytes of an event whose data is the JSON of a value."""
    return b"data: %s\n\n" % orjson.dumps(value)
