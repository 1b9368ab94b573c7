"""`BulkPoller`: waits for all samples of one sampling client with one long poll, and acknowledges
the results that were fetched.

Source: openapi/tinker.yaml, retrieve_futures.
"""

from __future__ import annotations

import asyncio
import copy

from attrs import define, field, frozen
from tinkex_api.api.futures import retrieve_futures
from tinkex_api.models import (
    FutureCompletion,
    FuturesRetrieveRequest,
    FuturesRetrieveResponse,
    SamplingSessionFuturesTarget,
)

from tinkex.errors import APIStatusError, APITimeoutError, TinkexError
from tinkex.events import Owner
from tinkex.futures.answers import Pending, pause_after
from tinkex.futures.poller import FAST, poll_timeout
from tinkex.transport import failures
from tinkex.transport.answers import parse
from tinkex.transport.backoff import RetryBudget
from tinkex.transport.transport import Transport
from tinkex.waiting.wait import RequestState, Wait

_PAUSE = 1.0  # seconds after a poll that failed
# seconds to wait for more samples after the last one; then the results are acknowledged
_LINGER = 1.0
_ACKNOWLEDGE_TIMEOUT = 5.0  # seconds for a request that only acknowledges


@frozen
class _Waiter:
    done: asyncio.Future[None]
    wait: Wait


@define(eq=False)
class BulkPoller:
    """The long poll of one sampling session and one copy of its client, running while a sample is
    waited for. For one event loop.
    """

    _transport: Transport
    _target: SamplingSessionFuturesTarget
    _waiters: dict[str, _Waiter] = field(factory=lambda: dict[str, _Waiter]())
    _done_early: set[str] = field(factory=lambda: set[str]())
    """Requests that ended before their wait began."""
    _abandoned: set[str] = field(factory=lambda: set[str]())
    """Requests whose wait was cancelled before they ended."""
    _unacknowledged: list[str] = field(factory=lambda: list[str]())
    """Requests whose results were fetched, and of which the server is not told yet."""
    _cursor: int = 0
    _fast_polls: int = 0
    _next_waiter: asyncio.Future[None] | None = None
    """Set while there are no waiters: ended by the next one."""
    _task: asyncio.Task[None] | None = None

    async def wait_until_done(self, state: RequestState) -> None:
        """Returns when the server says that the request has succeeded or failed, or that it lacks
        the call.

        Raises the error of the poll when the server cannot be reached, or `WaitTimeoutError`.
        """
        request_id = state.request_id or ""
        if request_id in self._done_early:
            self._done_early.discard(request_id)
            return
        with self._transport.wait(state, "its result") as wait:
            waiter = self._waiters[request_id] = _Waiter(
                asyncio.get_running_loop().create_future(), wait
            )
            if self._next_waiter is not None:
                _end(self._next_waiter)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="tinkex bulk poller")
            try:
                await waiter.done
            except asyncio.CancelledError:
                self._abandoned.add(request_id)
                raise
            finally:
                self._waiters.pop(request_id, None)

    def acknowledge(self, request_id: str) -> None:
        """Tells the server, with the next poll, that it need not keep this result."""
        self._unacknowledged.append(request_id)

    async def close(self) -> None:
        """Stops polling, and acknowledges what was fetched."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._acknowledge()

    async def _run(self) -> None:
        while self._waiters:
            await self._poll_while_waited_for()
            self._next_waiter = asyncio.get_running_loop().create_future()
            await self._transport.clock.sleep_unless(self._next_waiter, _LINGER)
            self._next_waiter = None
            if not self._waiters:
                await self._acknowledge()

    async def _poll_while_waited_for(self) -> None:
        retry_budget, clock = RetryBudget(self._transport.config.retry), self._transport.clock
        while self._waiters:
            began = clock.now()
            try:
                completions = await self._retrieve(None, poll_timeout(self._transport))
            except APITimeoutError:
                continue  # the server held the poll for longer than our timeout
            except TinkexError as error:
                if isinstance(error, APIStatusError) and error.status_code in (404, 405):
                    self._stop_using_bulk_polls()
                elif retry_budget.allows_retry(error, began, clock.now()):
                    self._set_owner("network", error.message)
                    await clock.sleep(_PAUSE)
                else:
                    self._fail_all(error)
                continue
            retry_budget.reset()
            self._end_waits(completions)
            self._fast_polls = (
                self._fast_polls + 1 if not completions and clock.now() - began < FAST else 0
            )
            polls = self._transport.config.poll
            await clock.sleep(
                pause_after(self._fast_polls, Pending(), polls.min_interval, polls.max_interval)
            )

    async def _retrieve(self, hold: float | None, timeout: float) -> list[FutureCompletion]:
        """Returns the requests that ended since the last poll, and acknowledges fetched results."""
        acknowledged = list(self._unacknowledged)
        body = FuturesRetrieveRequest(self._target, self._cursor, hold, acknowledged or None)
        request = retrieve_futures.request(body=body)
        response = await self._transport.send_once(request, timeout=timeout)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        answer: FuturesRetrieveResponse = parse(request, response)
        del self._unacknowledged[: len(acknowledged)]
        self._cursor = answer.cursor
        return answer.completions

    async def _acknowledge(self) -> None:
        if not self._unacknowledged:
            return
        try:
            self._end_waits(await self._retrieve(0.0, _ACKNOWLEDGE_TIMEOUT))
        except TinkexError:
            self._unacknowledged.clear()  # the server drops the results later by itself

    def _end_waits(self, completions: list[FutureCompletion]) -> None:
        self._set_owner("computation", "")
        for completion in completions:
            request_id = completion.request_id
            if waiter := self._waiters.get(request_id):
                _end(waiter.done)
            elif request_id in self._abandoned:
                self._abandoned.discard(request_id)
            else:
                self._done_early.add(request_id)

    def _set_owner(self, owner: Owner, activity: str) -> None:
        for waiter in self._waiters.values():
            if (waiter.wait.owner, waiter.wait.activity) != (owner, activity):
                waiter.wait.set_owner(owner, activity)

    def _stop_using_bulk_polls(self) -> None:
        """Notes that the server lacks the call, and has each result polled for by itself."""
        self._transport.server.update_dialect(bulk_results=False)
        for waiter in self._waiters.values():
            _end(waiter.done)
        self._waiters.clear()

    def _fail_all(self, cause: TinkexError) -> None:
        for request_id, waiter in self._waiters.items():
            error = copy.copy(cause)
            error.request_id, error.__cause__ = request_id, cause
            if not waiter.done.done():
                waiter.done.set_exception(error)
        self._waiters.clear()


def _end(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
