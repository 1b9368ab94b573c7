"""`SampleResults`: how the results of samples are waited for, one by one or in bulk, and given
up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from attrs import define, field
from tinkex_api.models import SamplingSessionFuturesTarget

from tinkex.futures.answers import Payload
from tinkex.futures.poller import wait_for_result
from tinkex.sampling.bulk_poller import BulkPoller
from tinkex.sampling.canceller import Canceller
from tinkex.transport.transport import Transport
from tinkex.waiting.wait import RequestState

T = TypeVar("T")

NUMBERS_OF_A_COPY = 1_000_000_000
"""The `seq_id`s of one copy of a sampling client; the first one's begin at 0. A server reads the
copy's number off them.
"""


@define(eq=False)
class SampleResults:
    """Of all samples of a session. For one event loop."""

    _transport: Transport
    _canceller: Canceller = field(init=False)
    _pollers: WeakSet[BulkPoller] = field(init=False, factory=lambda: WeakSet[BulkPoller]())

    def __attrs_post_init__(self) -> None:
        self._canceller = Canceller(self._transport)

    def of(self, sampling_session_id: str) -> SamplerResults:
        return SamplerResults(self._transport, sampling_session_id, self._canceller, self._pollers)

    async def close(self) -> None:
        """Tells the server what is not wanted any more, and what was fetched."""
        await asyncio.gather(
            self._canceller.close(), *(poller.close() for poller in list(self._pollers))
        )


@define(eq=False)
class SamplerResults:
    """Of the samples of one sampling session."""

    _transport: Transport
    _sampling_session_id: str
    _canceller: Canceller
    _all_pollers: WeakSet[BulkPoller]
    _pollers: dict[int, BulkPoller] = field(factory=lambda: dict[int, BulkPoller]())
    """By the number of the client's copy."""

    async def result(self, state: RequestState, seq_id: int, read: Callable[[Payload], T]) -> T:
        """What `read` makes of the result of the sample `seq_id`. One whose wait is cancelled is
        given up on the server, too, where that can be.

        Raises what `wait_for_result` does.
        """
        dialect = self._transport.server.dialect
        if dialect.cancels:
            self._canceller.begin()
        try:
            if dialect.bulk_results:
                return await self._from_bulk(state, seq_id, read)
            return await wait_for_result(self._transport, state, read)
        except asyncio.CancelledError:
            if state.request_id is not None:
                self._canceller.cancel(state.request_id)
            raise

    async def _from_bulk(self, state: RequestState, seq_id: int, read: Callable[[Payload], T]) -> T:
        poller = self._poller(seq_id // NUMBERS_OF_A_COPY)
        await poller.done(state)
        result = await wait_for_result(self._transport, state, read)
        poller.fetched(state.request_id or "")
        return result

    def _poller(self, copy: int) -> BulkPoller:
        if copy not in self._pollers:
            target = SamplingSessionFuturesTarget(self._sampling_session_id, cloned_sampler_id=copy)
            self._pollers[copy] = BulkPoller(self._transport, target)
            self._all_pollers.add(self._pollers[copy])
        return self._pollers[copy]
