"""`SubmissionQueue`: sends a model's requests, one call after the other, numbered without a gap, and
waits for their results.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from attrs import define
from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import Request

from tinkex import events
from tinkex.dialects import resend
from tinkex.dialects.detect import refuses_encoding
from tinkex.dialects.dialect import Encoding
from tinkex.errors import (
    APIConnectionError,
    APIStatusError,
    ClientClosedError,
    ConfigError,
    CredentialError,
    InvalidInputError,
    RequestFailedError,
    ResultLostError,
    ServerStateLostError,
    StepOutcomeUnknown,
    TinkexError,
    UnsupportedByServer,
    WaitTimeoutError,
)
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import Payload, RequestState, wait_for_result
from tinkex.session.session import Session
from tinkex.threads import in_thread
from tinkex.training.encoded_requests import Bodies, BodiesByEncoding
from tinkex.training.pipelining import PipelineCheck
from tinkex.training.sequencer import Sequencer, Turn

logger = logging.getLogger("tinkex")
R = TypeVar("R")
T = TypeVar("T")
_NOT_TAKEN = (
    *(APIStatusError, APIConnectionError, ClientClosedError, UnsupportedByServer),
    *(InvalidInputError, CredentialError, ConfigError),
)
"""What says of a request that was sent first that it was not taken on, or not sent at all."""
_FAILED = (400, 403, 404, 409, 410, 422)
"""Statuses of a poll that say of a training request that it has no result, and never will."""
_PASSES = ("forward", "forward_backward")
"""Operations that some servers run after what was sent later (`Dialect.overtakes`)."""
_COUNTED = (400, 404, 422)
"""Refusals of what a server has read, so that it may count it."""
_HELD_BODIES = 2  # calls: the one that is being sent, and the next one, which is encoded meanwhile
_FROM_SAVED = "Make a new training client from the last saved state."


@define(eq=False)
class _Sent:
    """A request of a call that is sent under a number."""

    state: RequestState
    index: int
    seq_id: int
    twice: bool = False
    """Whether it was sent again, since nobody knew whether the first one had arrived."""
    error: TinkexError | None = None
    """Why there is nothing to wait for."""


_Wait = Callable[[], Awaitable[Sequence[R]]]
Look = Callable[[BodiesByEncoding, Callable[[Payload], R]], Awaitable[R]]
"""Sends one request that changes nothing, and returns what was read of its result."""


class SubmissionQueue:
    """The requests of one model. For one event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transport = session.transport
        self._sequencer = Sequencer()
        self._pipeline = PipelineCheck()
        self._encoders = asyncio.Semaphore(_HELD_BODIES)
        self._passes: set[asyncio.Task[Any]] = set()
        """The waits for results of batches, where a later call must not be sent before they are
        over.
        """

    def turn(self, operation: str) -> AbstractAsyncContextManager[None]:
        """A place in the order for a request without a number; `async with` waits until it
        comes.
        """
        return self._free(self._sequencer.turn(operation))

    def run(
        self,
        operation: str,
        submits: Sequence[BodiesByEncoding],
        read: Callable[[Payload], R],
        join: Callable[[Sequence[R]], T],
    ) -> AsyncAPIFuture[T]:
        """One call, of one request or several. Its place in the order is fixed now.

        Args:
            submits: build the requests, which get consecutive numbers.
            read: reads the result of one request; raises `ValueError` and its like for what is
                none.
            join: makes the call's result of what was read, in order.
        """
        self._transport.require_open(operation)
        turn = self._sequencer.turn(operation, len(submits))
        state = RequestState(operation)

        async def work() -> T:
            async with self._ahead(turn, submits) as bodies, self._taken(turn, state):
                await self._after_passes(operation)
                results = await turn.unbroken(self._sent(turn, state, bodies, read))
            return join(await results())

        return self._begun(turn, work, state)

    def run_checked(
        self,
        operation: str,
        submit: BodiesByEncoding,
        read: Callable[[Payload], R],
        check: Callable[[Look[Any]], Awaitable[TinkexError | None]],
        advise: Callable[[TinkexError], str | None],
    ) -> AsyncAPIFuture[R]:
        """One call of one request, whose effect is looked at before any other call is sent. Those
        that were called before the user could know that it failed are skipped.

        Args:
            submit: builds the request.
            read: reads its result.
            check: looks at the model, and returns what is wrong with it, which the call then
                raises.
            advise: what to do about a failure that comes without advice.
        """
        self._transport.require_open(operation)
        turn = self._sequencer.turn(operation, 1)
        state = RequestState(operation)

        async def look(submit: BodiesByEncoding, read: Callable[[Payload], Any]) -> Any:
            [result] = await (await turn.unbroken(self._sent_aside(turn, submit, read)))()
            return result

        async def checked() -> R:
            async with self._ahead(turn, [submit]) as bodies, self._taken(turn, state):
                await self._after_passes(operation)
                sent = await turn.unbroken(self._submit_all(turn, state, bodies))
                try:
                    [result] = await self._results(sent, read)
                    if error := await check(look):
                        raise error
                except TinkexError as error:
                    self._sequencer.refused(error, changes=resend.effect_of(operation) == "changes")
                    raise
            return result

        async def work() -> R:
            try:
                return await checked()
            except TinkexError as error:
                error.advice = error.advice or advise(error)
                raise

        return self._begun(turn, work, state)

    def looked(self, submit: BodiesByEncoding, read: Callable[[Payload], R]) -> asyncio.Task[R]:
        """Sends one request that changes nothing, and that no user asked for; returns the wait for
        its result.

        Its place in the order is fixed now; when it fails, the calls behind it go on.
        """
        turn = self._sequencer.turn("forward", 1)

        async def work() -> R:
            async with self._taken(turn, RequestState("forward")):
                results = await turn.unbroken(self._sent_aside(turn, submit, read))
            [result] = await results()
            return result

        task = asyncio.create_task(work(), name="tinkex look")
        task.add_done_callback(lambda _: turn.leave())
        return task

    def run_both(
        self,
        operation: str,
        first: Sequence[BodiesByEncoding],
        read: Callable[[Payload], R],
        second: Callable[
            [Sequence[R]], tuple[Sequence[BodiesByEncoding], Callable[[Sequence[R]], T]]
        ],
    ) -> AsyncAPIFuture[T]:
        """One call whose second requests depend on the results of its first ones, which change
        nothing. No other call comes between.

        Args:
            first: build the first requests, all of `forward`.
            read: reads the result of one request, of the first or the second ones.
            second: makes of their results the second ones, and what makes the call's result of
                those ones'; it may take long.
        """
        self._transport.require_open(operation)
        turn = self._sequencer.turn(operation, len(first))
        state = RequestState(operation)

        async def work() -> T:
            async with self._ahead(turn, first) as bodies, self._taken(turn, state):
                sent = await turn.unbroken(self._submit_all(turn, RequestState("forward"), bodies))
                try:
                    submits, join = await in_thread(second, await self._results(sent, read))
                # a cancellation, too: what is queued behind was to follow the gradients
                except BaseException as error:
                    state.failed = _as_own(error, operation)
                    # the user's own deed
                    state.failed.delivered = isinstance(error, asyncio.CancelledError)
                    self._sequencer.refused(state.failed, changes=True)
                    raise
                results = await turn.unbroken(self._sent(turn, state, self._bodies(submits), read))
            return join(await results())

        return self._begun(turn, work, state)

    def _begun(
        self, turn: Turn, work: Callable[[], Awaitable[T]], state: RequestState
    ) -> AsyncAPIFuture[T]:
        """The future of a call that has its place in the order, which it gives back however it
        ends, begun or not.
        """
        future = AsyncAPIFuture(self._told(work, state), state, self._session.failures)
        future.task.add_done_callback(lambda _: turn.leave())
        return self._watched(future)

    def _watched(self, future: AsyncAPIFuture[T]) -> AsyncAPIFuture[T]:
        """The future of a call that was just made; says so when the user's loop keeps the server
        waiting.
        """
        operation, clock = future.state.operation, self._transport.clock
        advice = self._pipeline.submitted(operation, clock.now())
        # where it waits for them anyway
        if advice and not self._transport.server.dialect.overtakes:
            logger.warning("%s", advice)
        future.task.add_done_callback(lambda _: self._pipeline.finished(operation, clock.now()))
        return future

    async def _told(self, work: Callable[[], Awaitable[T]], state: RequestState) -> T:
        """What `work` gives; whoever listens hears how it ended."""
        began, failure = self._transport.clock.now(), None
        try:
            return await work()
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            seconds = self._transport.clock.now() - began
            self._transport.emit(
                events.TrainingStep,
                operation=state.operation,
                request_id=state.request_id,
                seconds=seconds,
                error=failure,
            )

    @asynccontextmanager
    async def _taken(self, turn: Turn, state: RequestState) -> AsyncGenerator[None]:
        """The turn, when it has come. One that does not come in time is given up, and those that
        were to follow it are skipped.
        """
        if not turn.has_come:
            try:
                with self._transport.wait(state, "its turn") as wait:
                    wait.becomes("turn")
                    await turn.come()
            except WaitTimeoutError as error:
                self._sequencer.refused(
                    error, changes=resend.effect_of(turn.operation) == "changes"
                )
                raise
        async with turn:
            yield

    async def _sent(
        self, turn: Turn, state: RequestState, bodies: Bodies, read: Callable[[Payload], R]
    ) -> _Wait[R]:
        """Sends them; returns the wait for their results."""
        return self._wait(state.operation, await self._submit_all(turn, state, bodies), read)

    async def _sent_aside(
        self, turn: Turn, submit: BodiesByEncoding, read: Callable[[Payload], R]
    ) -> _Wait[R]:
        """Sends a request that no call is made of."""
        state = RequestState("forward")
        return self._wait(
            "forward", await self._submit_all(turn, state, self._bodies([submit]), aside=True), read
        )

    def _wait(
        self, operation: str, sent: Sequence[_Sent], read: Callable[[Payload], R]
    ) -> _Wait[R]:
        """Returns the wait for their results.

        Where later calls wait for its end, too, it has begun, and goes on without the one who
        waits.
        """
        if operation not in _PASSES or not self._transport.server.dialect.overtakes:
            return partial(self._results, sent, read)
        task = asyncio.create_task(self._results(sent, read), name=f"tinkex result of {operation}")
        self._passes.add(task)
        task.add_done_callback(self._passes.discard)
        # maybe nobody else sees it
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return partial(asyncio.shield, task)

    @asynccontextmanager
    async def _free(self, turn: Turn) -> AsyncGenerator[None]:
        """Holds the turn of a request without a number, from when the server may be sent it."""
        async with self._taken(turn, RequestState(turn.operation)):
            await self._after_passes(turn.operation)
            yield

    async def _after_passes(self, operation: str) -> None:
        """Waits for the batches before, however they end, where the server might run what changes
        the model before them.
        """
        if operation not in _PASSES and self._passes:
            await asyncio.wait(self._passes)

    # ---- sending ----

    def _bodies(self, submits: Sequence[BodiesByEncoding]) -> Bodies:
        return Bodies(submits, self._transport.server.dialect.encodings)

    @asynccontextmanager
    async def _ahead(
        self, turn: Turn, submits: Sequence[BodiesByEncoding]
    ) -> AsyncGenerator[Bodies]:
        """The requests of a call, the first one encoded while the call before is being sent."""
        async with self._encoders:
            bodies = self._bodies(submits)
            bodies.begin(0, turn.expected_seq_id)
            try:
                yield bodies
            finally:
                bodies.drop()

    async def _submit_all(
        self, turn: Turn, state: RequestState, bodies: Bodies, *, aside: bool = False
    ) -> Sequence[_Sent]:
        """Sends a call's requests under consecutive numbers; returns them in order.

        Together, where the server says so, and then the first one last, so that it finds all the
        others queued.

        Args:
            aside: whether nothing follows from it when this fails, as far as the numbers allow.
        """
        self._session.check(turn.operation)
        await self._sequencer.settle()
        first, count = self._sequencer.next_seq_id, len(bodies)
        all_sent = [
            _Sent(RequestState(state.operation) if index else state, index, first + index)
            for index in range(count)
        ]
        parallel = self._transport.server.dialect.parallel_chunks and count > 1
        accepted = 0
        try:
            if parallel:
                await _all_or_first_error([self._submit(sent, bodies) for sent in all_sent[1:]])
            for sent in all_sent[: 1 if parallel else None]:
                if not parallel:
                    bodies.begin(sent.index + 1, sent.seq_id + 1)
                await self._submit(sent, bodies)
                accepted += 1
        except TinkexError as error:
            untouched = accepted == 0 and not parallel and isinstance(error, _NOT_TAKEN)
            if untouched:
                self._count_refusal(error)
            if not (aside and self._passes_over(untouched)):
                self._give_up(error, turn.operation, untouched=untouched)
            raise
        except BaseException:  # the event loop ends, or something is broken here
            self._sequencer.poison(
                StepOutcomeUnknown("broken off while it was being sent", operation=turn.operation)
            )
            raise
        self._sequencer.accepted(count)
        return all_sent

    async def _submit(self, sent: _Sent, bodies: Bodies) -> None:
        """Sends a request in the encoding that the server is known to read; else in one after the
        other, to learn it.
        """
        order = bodies.encodings(sent.index)
        refusals: list[APIStatusError] = []
        for encoding in order:
            request = await bodies.get(sent.index, encoding, sent.seq_id)
            mistaken = (
                partial(_is_mistaken, encoding, sent.state.operation) if len(order) > 1 else None
            )
            try:
                await self._send(sent, request, mistaken)
            except APIStatusError as error:
                if mistaken is None or not mistaken(error):
                    self._transport.server.heed(error)
                    raise
                refusals.append(error)
            else:
                if len(order) > 1:
                    self._transport.server.learn(encodings=(encoding,))
                return
        self._transport.server.heed(refusals[0])
        raise refusals[0]

    async def _send(
        self,
        sent: _Sent,
        request: Request[UntypedAPIFuture],
        mistaken: Callable[[APIStatusError], bool] | None,
    ) -> None:
        """Sends it, again where that is safe. Raises `StepOutcomeUnknown` when nobody knows whether
        it was taken on.
        """
        operation, repeats = sent.state.operation, self._transport.server.dialect.seq_id_repeats
        repeatable = resend.decide("unanswered", operation, repeats) == "resend"
        try:
            sent.state.request_id = (
                await self._transport.send(request, repeatable=repeatable, state=sent.state)
            ).request_id
        except TinkexError as error:
            place = resend.failure_point(error)
            if isinstance(error, APIStatusError) and mistaken and mistaken(error):
                raise
            if place is None and sent.state.in_doubt and not resend.refuses_all_attempts(error):
                raise _unknown(error, operation) from error
            if place is None:
                raise
            if resend.decide(place, operation, repeats) != "resend_once":
                raise _unknown(error, operation) from error
            await self._send_again(sent, request, error)

    async def _send_again(
        self, sent: _Sent, request: Request[UntypedAPIFuture], first: TinkexError
    ) -> None:
        """The one resend to a server that refuses a number that it has had."""
        sent.twice = True
        try:
            sent.state.request_id = (
                await self._transport.send(request, repeatable=False, state=sent.state)
            ).request_id
        except APIStatusError as refusal:
            sent.error = self._read_refusal(sent, refusal)
            if sent.error is None:
                raise _unknown(first, sent.state.operation) from refusal
        except TinkexError as error:
            raise _unknown(first, sent.state.operation) from error

    def _read_refusal(self, sent: _Sent, refusal: TinkexError) -> TinkexError | None:
        """What the refusal of a request that was sent twice says of the first one; None where it
        says nothing.
        """
        match resend.meaning_of_refusal(refusal.message, sent.seq_id):
            case "applied":
                return ResultLostError(
                    f"it was applied, and its result was lost: {refusal.message}",
                    operation=sent.state.operation,
                    advice="Go on with the next step.",
                )
            case "state_lost":
                lost = ServerStateLostError(
                    f"the server has forgotten earlier steps: {refusal.message}",
                    operation=sent.state.operation,
                    advice=_FROM_SAVED,
                )
                self._sequencer.poison(lost)
                return lost
            case "unclear":
                return None

    def _passes_over(self, untouched: bool) -> bool:
        """Returns whether the calls behind a request that failed can go on as if it had not been.

        They can where its number is free, or counts for nothing.
        """
        if untouched:
            return True
        if self._transport.server.dialect.seq_id_order != "arrival":
            return False
        # the server may have it, and must not be sent another one under its number
        self._sequencer.accepted()
        return True

    def _count_refusal(self, error: TinkexError) -> None:
        """Takes the number of a request that was refused, on a server that takes it."""
        if self._transport.server.dialect.refusals_take_numbers and isinstance(
            error, APIStatusError
        ):
            self._sequencer.accepted(int(error.status_code in _COUNTED))

    def _give_up(self, error: TinkexError, operation: str, *, untouched: bool) -> None:
        if untouched:
            self._sequencer.refused(error, changes=resend.effect_of(operation) == "changes")
        else:
            self._sequencer.poison(error)

    # ---- results ----

    async def _results(
        self, all_sent: Sequence[_Sent], read: Callable[[Payload], R]
    ) -> Sequence[R]:
        return await asyncio.gather(*(self._result(sent, read) for sent in all_sent))

    async def _result(self, sent: _Sent, read: Callable[[Payload], R]) -> R:
        if sent.error is not None:
            raise sent.error
        with self._sequencer.unsettled():
            try:
                return await wait_for_result(self._transport, sent.state, read)
            except (RequestFailedError, APIStatusError) as error:
                if isinstance(error, APIStatusError) and error.status_code not in _FAILED:
                    raise
                if found := self._after_failure(sent, error):
                    raise found from error
                raise

    def _after_failure(
        self, sent: _Sent, error: RequestFailedError | APIStatusError
    ) -> TinkexError | None:
        """Puts the count right where a failed step leaves it as it was; the error of a request that
        was sent twice is another one.
        """
        if isinstance(error, RequestFailedError):
            self._sequencer.lost(error)
        if sent.twice and (found := self._read_refusal(sent, error)):
            return found
        dialect = self._transport.server.dialect
        expected = (
            resend.expected_number(error.message) if dialect.seq_id_order == "strict" else None
        )
        if expected is not None or dialect.failed_step_keeps_number:
            self._sequencer.number_free(sent.seq_id if expected is None else expected)
        return None


def _is_mistaken(encoding: Encoding, operation: str, error: APIStatusError) -> bool:
    return refuses_encoding(encoding, operation, error.status_code, error.body)


def _unknown(error: TinkexError, operation: str) -> StepOutcomeUnknown:
    if resend.effect_of(operation) == "changes":
        doubt = "nobody knows whether it was applied"
    else:
        doubt = "it changes nothing in the model, but nobody knows whether the server counts it"
    return StepOutcomeUnknown(f"{doubt}: {error.message}", operation=operation, advice=_FROM_SAVED)


def _as_own(error: BaseException, operation: str) -> TinkexError:
    return (
        error
        if isinstance(error, TinkexError)
        else TinkexError(f"it raised {error!r}", operation=operation)
    )


async def _all_or_first_error(work: Sequence[Awaitable[Any]]) -> None:
    """Waits for all, so that none is left running, and raises the first error in order."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
