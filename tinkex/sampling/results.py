"""`SessionResults`: waits for the results of samples, one by one or in bulk, and cancels them."""

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

SEQ_IDS_PER_COPY = 1_000_000_000
"""The size of the range of `seq_id`s that each copy of a sampling client has; the original's begins
at 0. A server derives the copy's number from a `seq_id`.
"""


@define(eq=False)
class SessionResults:
    """The waits for results of all samplers of a session. For one event loop."""

    _transport: Transport
    _canceller: Canceller = field(init=False)
    _pollers: WeakSet[BulkPoller] = field(init=False, factory=lambda: WeakSet[BulkPoller]())

    def __attrs_post_init__(self) -> None:
        self._canceller = Canceller(self._transport)

    def for_sampler(self, sampling_session_id: str) -> SamplerResults:
        return SamplerResults(self._transport, sampling_session_id, self._canceller, self._pollers)

    async def close(self) -> None:
        """Sends the cancellations and acknowledgements that are still to be sent."""
        await asyncio.gather(
            self._canceller.close(), *(poller.close() for poller in list(self._pollers))
        )


@define(eq=False)
class SamplerResults:
    """The waits for results of one sampling session."""

    _transport: Transport
    _sampling_session_id: str
    _canceller: Canceller
    _session_pollers: WeakSet[BulkPoller]
    _pollers: dict[int, BulkPoller] = field(factory=lambda: dict[int, BulkPoller]())
    """Pollers by the number of the client's copy."""

    async def wait_for(self, state: RequestState, seq_id: int, read: Callable[[Payload], T]) -> T:
        """Waits for the result of the sample `seq_id`, and returns it as `read` decodes it. When
        the wait is cancelled, cancels the sample on the server too, where the server has the call.

        Raises what `wait_for_result` does.
        """
        dialect = self._transport.server.dialect
        if dialect.cancels:
            self._canceller.start()
        try:
            if dialect.bulk_results:
                return await self._wait_in_bulk(state, seq_id, read)
            return await wait_for_result(self._transport, state, read)
        except asyncio.CancelledError:
            if state.request_id is not None:
                self._canceller.cancel(state.request_id)
            raise

    async def _wait_in_bulk(
        self, state: RequestState, seq_id: int, read: Callable[[Payload], T]
    ) -> T:
        poller = self._poller(seq_id // SEQ_IDS_PER_COPY)
        await poller.wait_until_done(state)
        result = await wait_for_result(self._transport, state, read)
        poller.acknowledge(state.request_id or "")
        return result

    def _poller(self, copy: int) -> BulkPoller:
        if copy not in self._pollers:
            target = SamplingSessionFuturesTarget(self._sampling_session_id, cloned_sampler_id=copy)
            self._pollers[copy] = BulkPoller(self._transport, target)
            self._session_pollers.add(self._pollers[copy])
        return self._pollers[copy]
