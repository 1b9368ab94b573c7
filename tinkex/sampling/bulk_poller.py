"""`BulkPoller`: waits for all samples of one sampling client by one long poll, and acknowledges
those that were fetched.

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
# seconds after the last sample; more may come, and what was fetched is acknowledged then
_LINGER = 1.0
_LAST_WORDS = 5.0  # seconds for an acknowledgement alone


@frozen
class _Waiter:
    done: asyncio.Future[None]
    wait: Wait


@define(eq=False)
class BulkPoller:
    """Of one sampling session and one copy of its client. It polls while somebody waits. For one
    event loop.
    """

    _transport: Transport
    _target: SamplingSessionFuturesTarget
    _waiters: dict[str, _Waiter] = field(factory=lambda: dict[str, _Waiter]())
    _early: set[str] = field(factory=lambda: set[str]())
    """Done before anybody waited for them."""
    _given_up: set[str] = field(factory=lambda: set[str]())
    """Nobody waits for them any more."""
    _fetched: list[str] = field(factory=lambda: list[str]())
    """To be acknowledged."""
    _cursor: int = 0
    _fast_polls: int = 0
    _wanted: asyncio.Future[None] | None = None
    """What it waits for when nobody waits."""
    _task: asyncio.Task[None] | None = None

    async def done(self, state: RequestState) -> None:
        """Returns when the server says that the request has ended, well or not, or that it lacks
        the call.

        Raises the cause when the server cannot be asked, or `WaitTimeoutError`.
        """
        request_id = state.request_id or ""
        if request_id in self._early:
            self._early.discard(request_id)
            return
        with self._transport.wait(state, "its result") as wait:
            waiter = self._waiters[request_id] = _Waiter(
                asyncio.get_running_loop().create_future(), wait
            )
            if self._wanted is not None:
                _end(self._wanted)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="tinkex bulk poller")
            try:
                await waiter.done
            except asyncio.CancelledError:
                self._given_up.add(request_id)
                raise
            finally:
                self._waiters.pop(request_id, None)

    def fetched(self, request_id: str) -> None:
        """Its result is here, and need not be kept by the server."""
        self._fetched.append(request_id)

    async def close(self) -> None:
        """Ends, with a last acknowledgement."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._acknowledge()

    async def _run(self) -> None:
        while self._waiters:
            await self._poll_while_wanted()
            self._wanted = asyncio.get_running_loop().create_future()
            await self._transport.clock.sleep_unless(self._wanted, _LINGER)
            self._wanted = None
            if not self._waiters:
                await self._acknowledge()

    async def _poll_while_wanted(self) -> None:
        retry_budget, clock = RetryBudget(self._transport.config.retry), self._transport.clock
        while self._waiters:
            began = clock.now()
            try:
                completions = await self._ask(None, poll_timeout(self._transport))
            except APITimeoutError:
                continue  # the server holds it for longer than we do
            except TinkexError as error:
                if isinstance(error, APIStatusError) and error.status_code in (404, 405):
                    self._do_without()
                elif retry_budget.allows_retry(error, began, clock.now()):
                    self._charge("network", error.message)
                    await clock.sleep(_PAUSE)
                else:
                    self._fail_all(error)
                continue
            retry_budget.reset()
            self._take(completions)
            self._fast_polls = (
                self._fast_polls + 1 if not completions and clock.now() - began < FAST else 0
            )
            polls = self._transport.config.poll
            await clock.sleep(
                pause_after(self._fast_polls, Pending(), polls.min_interval, polls.max_interval)
            )

    async def _ask(self, hold: float | None, timeout: float) -> list[FutureCompletion]:
        """What has ended since the last answer. Acknowledges what was fetched."""
        acknowledged = list(self._fetched)
        body = FuturesRetrieveRequest(self._target, self._cursor, hold, acknowledged or None)
        request = retrieve_futures.request(body=body)
        response = await self._transport.send_once(request, timeout=timeout)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        answer: FuturesRetrieveResponse = parse(request, response)
        del self._fetched[: len(acknowledged)]
        self._cursor = answer.cursor
        return answer.completions

    async def _acknowledge(self) -> None:
        if not self._fetched:
            return
        try:
            self._take(await self._ask(0.0, _LAST_WORDS))
        except TinkexError:
            self._fetched.clear()  # it is a courtesy

    def _take(self, completions: list[FutureCompletion]) -> None:
        self._charge("computation", "")
        for completion in completions:
            request_id = completion.request_id
            if waiter := self._waiters.get(request_id):
                _end(waiter.done)
            elif request_id in self._given_up:
                self._given_up.discard(request_id)
            else:
                self._early.add(request_id)

    def _charge(self, owner: Owner, what: str) -> None:
        for waiter in self._waiters.values():
            if (waiter.wait.owner, waiter.wait.activity) != (owner, what):
                waiter.wait.set_owner(owner, what)

    def _do_without(self) -> None:
        """The server lacks the call: each is asked for alone."""
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
