"""`TrainingLine`: sends a model's requests, one call after the other, numbered without a gap, and waits for their results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from attrs import evolve
from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.dialects.dialect import Encoding, encodings_to_try, refuses_encoding
from tinkex.errors import APIConnectionError, APIStatusError, InternalServerError, StepOutcomeUnknown, TinkexError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import Payload, RequestState, read_result, wait_for_payload
from tinkex.session import Session
from tinkex.training.sequencer import Sequencer, Turn

T = TypeVar("T")
Build = Callable[[int], Request[UntypedAPIFuture]]
"""Makes the request for a seq_id."""
Submit = Mapping[Encoding, Build]
"""A request in each of the encodings that it has."""


class TrainingLine:
    """The requests of one model. For one event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transport = session.transport
        self._sequencer = Sequencer()

    def turn(self, operation: str) -> Turn:
        """A place in the order for a request without a number; `async with` waits until it comes."""
        return self._sequencer.turn(operation)

    def run(self, operation: str, submits: Sequence[Submit], parse: Callable[[Sequence[Payload]], T]) -> AsyncAPIFuture[T]:
        """One call, of one request or several. Its place in the order is fixed now.

        Args:
            submits: build the requests, which get consecutive numbers.
            parse: makes the call's result of the requests' results, in order.
        """
        turn = self._sequencer.turn(operation)
        state = RequestState(operation)

        async def work() -> T:
            async with turn:
                states = await self._submit_all(turn, state, submits)
            return read_result(parse, await self._results(states), operation)

        return AsyncAPIFuture(work(), state)

    def run_both(
        self,
        operation: str,
        first: Sequence[Submit],
        second: Callable[[Sequence[Payload]], tuple[Sequence[Submit], Callable[[Sequence[Payload]], T]]],
    ) -> AsyncAPIFuture[T]:
        """One call whose second requests depend on the results of its first ones, which change nothing. No other call comes between.

        Args:
            first: build the first requests, all of `forward`.
            second: makes of their results the second ones, and what makes the call's result of those ones'; it may take long.
        """
        turn = self._sequencer.turn(operation)
        state = RequestState(operation)

        async def work() -> T:
            async with turn:
                states = await self._submit_all(turn, RequestState("forward"), first)
                try:
                    submits, parse = await asyncio.to_thread(second, await self._results(states))
                except Exception as error:
                    self._sequencer.refused(_as_own(error, operation))  # what is queued behind was to follow the gradients
                    raise
                states = await self._submit_all(turn, state, submits)
            return read_result(parse, await self._results(states), operation)

        return AsyncAPIFuture(work(), state)

    async def _results(self, states: Sequence[RequestState]) -> Sequence[Payload]:
        return await asyncio.gather(*(wait_for_payload(self._transport, state) for state in states))

    async def _submit_all(self, turn: Turn, state: RequestState, submits: Sequence[Submit]) -> Sequence[RequestState]:
        """Sends a call's requests under consecutive numbers; returns their states, in order.

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
        return states

    async def _submit(self, state: RequestState, submit: Submit, seq_id: int) -> None:
        """Sends a request in the encoding that the server is known to read; else in one after the other, to learn it."""
        order = encodings_to_try(self._session.dialect) if len(submit) > 1 else tuple(submit)
        refusals: list[APIStatusError] = []
        for encoding in order:
            try:
                state.request_id = await self._send(state, submit[encoding], seq_id)
            except APIStatusError as error:
                if len(order) == 1 or not refuses_encoding(error.status_code, state.operation):
                    raise
                refusals.append(error)
            else:
                if len(order) > 1:
                    self._session.dialect = evolve(self._session.dialect, encoding=encoding)
                return
        raise refusals[0]

    async def _send(self, state: RequestState, build: Build, seq_id: int) -> str:
        """The request id that the server gives."""
        repeatable = self._session.dialect.steps_repeatable
        request = await asyncio.to_thread(build, seq_id)  # a large body takes long to encode
        try:
            return (await self._transport.send(request, repeatable=repeatable)).request_id
        except (APIConnectionError, InternalServerError) as error:
            if isinstance(error, APIConnectionError) and not error.sent:
                raise
            raise StepOutcomeUnknown(
                f"nobody knows whether it was applied: {error.message}",
                operation=state.operation,
                advice="Make a new training client from the last saved state.",
            ) from error

    def _give_up(self, error: TinkexError, *, untouched: bool) -> None:
        refused = isinstance(error, (APIStatusError, APIConnectionError))
        if refused and untouched:
            self._sequencer.refused(error)
        else:
            self._sequencer.poison(error)


def _as_own(error: Exception, operation: str) -> TinkexError:
    return error if isinstance(error, TinkexError) else TinkexError(f"it raised {error!r}", operation=operation)


async def _all_or_first_error(work: Sequence[Awaitable[None]]) -> None:
    """Waits for all, so that none is left running, and raises the first error in order."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
