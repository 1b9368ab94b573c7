"""Server-sent events, which stream a sample to a client token by token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError, Future

import orjson
from tinkex_api.models import SampleStreamEvent

from tinkex_server.engine.interface import EngineDied, InvalidRequest, OnToken, SampleResult
from tinkex_server.loop_calls import call_on_loop

logger = logging.getLogger("tinkex.local")

_COMMENT_AFTER = 10.0  # seconds without an event, so that nobody takes the connection for dead
_COMMENT = b": waiting\n\n"


class EventStream:
    """The events of one sample. It is used on the event loop's thread alone."""

    def __init__(self, begin: Callable[[OnToken], Future[SampleResult]]) -> None:
        self._loop = asyncio.get_running_loop()
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
        self._put_event(SampleStreamEvent(tokens=[token], logprobs=[logprob]))

    def _end(self, sample: Future[SampleResult]) -> None:
        self._put_event(_last_event(sample))
        self._put(None)

    def _put_event(self, event: SampleStreamEvent) -> None:
        self._put(b"data: %s\n\n" % orjson.dumps(event.to_dict()))

    def _put(self, event: bytes | None) -> None:
        call_on_loop(self._loop, self._queue.put_nowait, event)


def _last_event(sample: Future[SampleResult]) -> SampleStreamEvent:
    try:
        return SampleStreamEvent(stop_reason=sample.result().sequences[0].stop_reason)
    except CancelledError:
        return SampleStreamEvent(error="the sampling was cancelled", category="server")
    except InvalidRequest as error:
        return SampleStreamEvent(error=str(error), category="user")
    except EngineDied as error:
        return SampleStreamEvent(error=str(error), category="server")
    except Exception as error:
        logger.exception("a stream of tokens failed")
        return SampleStreamEvent(
            error=f"the sampling failed in the server: {type(error).__name__}", category="server"
        )
