"""`TrainingLine`: sends a model's requests, one call after the other, numbered without a gap, and waits for their results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.errors import APIConnectionError, APIStatusError, InternalServerError, StepOutcomeUnknown, TinkexError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import RequestState, wait_for_result
from tinkex.session import Session
from tinkex.training.sequencer import Sequencer, Turn

T = TypeVar("T")
Result = Mapping[str, Any]
Submit = Callable[[int], Request[UntypedAPIFuture]]
"""Builds the request for a seq_id."""


class TrainingLine:
    """The requests of one model. For one event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transport = session.transport
        self._sequencer = Sequencer()

    def turn(self, operation: str) -> Turn:
        """A place in the order for a request without a number; `async with` waits until it comes."""
        return self._sequencer.turn(operation)

    def run(self, operation: str, submits: Sequence[Submit], parse: Callable[[Sequence[Result]], T]) -> AsyncAPIFuture[T]:
        """One call, of one request or several. Its place in the order is fixed now.

        Args:
            submits: build the requests, which get consecutive numbers.
            parse: makes the call's result of the requests' results, in order.
        """
        turn = self._sequencer.turn(operation)
        state = RequestState(operation)

        async def work() -> T:
            async with turn:
                waits = await self._submit_all(turn, state, submits)
            return parse(await asyncio.gather(*(wait() for wait in waits)))

        return AsyncAPIFuture(work(), state)

    async def _submit_all(
        self, turn: Turn, state: RequestState, submits: Sequence[Submit]
    ) -> list[Callable[[], Awaitable[Result]]]:
        """Sends a call's requests under consecutive numbers; returns what waits for each result, in order.

        Together, where the server says so, and then the first one last, so that it finds all the others queued.
        """
        first = self._sequencer.next_seq_id
        states = [state, *(RequestState(state.operation) for _ in submits[1:])]

        async def send(index: int) -> None:
            await self._submit(states[index], submits[index], first + index)

        sent = 0
        try:
            if self._session.dialect.parallel_chunks and len(submits) > 1:
                await _all_or_first_error([send(index) for index in range(1, len(submits))])
                sent = len(submits) - 1
                await send(0)
            else:
                for index in range(len(submits)):
                    await send(index)
                    sent += 1
        except TinkexError as error:
            self._give_up(error, untouched=sent == 0 and (len(submits) == 1 or not self._session.dialect.parallel_chunks))
            raise
        except BaseException:
            self._sequencer.poison(StepOutcomeUnknown("cancelled while it was being sent", operation=turn.operation))
            raise
        self._sequencer.accepted(len(submits))
        return [lambda state=state: wait_for_result(self._transport, state) for state in states]

    async def _submit(self, state: RequestState, submit: Submit, seq_id: int) -> None:
        repeatable = self._session.dialect.steps_repeatable
        request = await asyncio.to_thread(submit, seq_id)  # a large body takes long to encode
        try:
            promise = await self._transport.send(request, repeatable=repeatable)
        except (APIConnectionError, InternalServerError) as error:
            if isinstance(error, APIConnectionError) and not error.sent:
                raise
            raise StepOutcomeUnknown(
                f"nobody knows whether it was applied: {error.message}",
                operation=state.operation,
                advice="Make a new training client from the last saved state.",
            ) from error
        state.request_id = promise.request_id

    def _give_up(self, error: TinkexError, *, untouched: bool) -> None:
        refused = isinstance(error, (APIStatusError, APIConnectionError))
        if refused and untouched:
            self._sequencer.refused(error)
        else:
            self._sequencer.poison(error)


async def _all_or_first_error(work: Sequence[Awaitable[None]]) -> None:
    """Waits for all, so that none is left running, and raises the first error in order."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
