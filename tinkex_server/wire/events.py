"""Server-sent events: a sample under way, told to a client token by token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError, Future

import orjson
from tinkex_api.models import SampleStreamEvent

from tinkex_server.engine.interface import EngineDied, InvalidRequest, OnToken, SampleResult

logger = logging.getLogger("tinkex.local")

_SILENCE = 10.0  # seconds; then a comment, so that nobody takes the connection for dead
_COMMENT = b": waiting\n\n"


class EventStream:
    """Begins one sample, by `begin`, and tells of it. Made and read on the event loop's thread."""

    def __init__(self, begin: Callable[[OnToken], Future[SampleResult]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sample = begin(self._on_token)
        self._sample.add_done_callback(self._end)

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The bytes to send. When it is closed the client has left, and the sampling is given
        up.
        """
        try:
            while (event := await self._next()) is not None:
                yield event
        finally:
            self._sample.cancel()

    async def _next(self) -> bytes | None:
        try:
            return await asyncio.wait_for(self._queue.get(), _SILENCE)
        except TimeoutError:
            return _COMMENT

    def _on_token(self, token: int, logprob: float) -> None:
        """On the engine's thread, as is `_end`."""
        self._tell(SampleStreamEvent(tokens=[token], logprobs=[logprob]))

    def _end(self, sample: Future[SampleResult]) -> None:
        self._tell(_last_event(sample))
        self._put(None)

    def _tell(self, event: SampleStreamEvent) -> None:
        self._put(b"data: %s\n\n" % orjson.dumps(event.to_dict()))

    def _put(self, event: bytes | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)


def _last_event(sample: Future[SampleResult]) -> SampleStreamEvent:
    try:
        return SampleStreamEvent(stop_reason=sample.result().sequences[0].stop_reason)
    except CancelledError:
        return SampleStreamEvent(error="the sampling was given up", category="server")
    except InvalidRequest as error:
        return SampleStreamEvent(error=str(error), category="user")
    except EngineDied as error:
        return SampleStreamEvent(error=str(error), category="server")
    except Exception as error:
        logger.exception("a stream failed")
        return SampleStreamEvent(
            error=f"the sampling failed in the server: {type(error).__name__}", category="server"
        )
