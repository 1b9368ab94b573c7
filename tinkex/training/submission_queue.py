"""`SubmissionQueue`: runs the calls of one model in their order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from tinkex import events
from tinkex.dialects import resend
from tinkex.errors import TinkexError, WaitTimeoutError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import Payload, RequestState
from tinkex.session.session import Session
from tinkex.threads import in_thread
from tinkex.training.encoded_requests import EncodedRequests, RequestBuilders
from tinkex.training.pipelining import PipelineCheck
from tinkex.training.request_sender import RequestSender, SentRequest
from tinkex.training.sequencer import Sequencer, Turn

logger = logging.getLogger("tinkex")
R = TypeVar("R")
T = TypeVar("T")
_BATCHES = ("forward", "forward_backward")
"""Operations that some servers run after requests that were sent later (`Dialect.overtakes`)."""
_HELD_CALLS = 2  # the call that is being sent, and the next one, which is encoded meanwhile

_Results = Callable[[], Awaitable[Sequence[R]]]
"""A function that waits for the results of a call's requests."""
SendForward = Callable[[RequestBuilders, Callable[[Payload], R]], Awaitable[R]]
"""A function that sends one forward pass, and returns what the second argument makes of its result.
"""


class SubmissionQueue:
    """The calls of one model. For one event loop.

    A call's place in the order is fixed when one of the methods is called, not when its result is
    awaited.
    """

    def __init__(self, session: Session, model_id: str) -> None:
        self._session = session
        self._transport = session.transport
        self._sequencer = Sequencer(session.last_seq_ids.get(model_id, 0) + 1)
        self._sender = RequestSender(session, model_id, self._sequencer)
        self._pipeline = PipelineCheck()
        self._encoders = asyncio.Semaphore(_HELD_CALLS)
        self._batches: set[asyncio.Task[Any]] = set()
        """The waits for results of batches, if later calls must not be sent before they end."""

    def turn(self, operation: str) -> AbstractAsyncContextManager[None]:
        """Returns the last place in the order, for a request without a number.

        `async with` waits until the turn comes, and holds it.
        """
        return self._hold_unnumbered_turn(self._sequencer.turn(operation))

    def run(
        self,
        operation: str,
        bodies: Sequence[RequestBuilders],
        read: Callable[[Payload], R],
        join: Callable[[Sequence[R]], T],
        check: Callable[[], None] | None = None,
    ) -> AsyncAPIFuture[T]:
        """Runs a call of one request or several, and returns its future.

        Args:
            operation: the call's name.
            bodies: the requests, which get consecutive numbers.
            read: reads the result of one request. Raises `ValueError` or a similar error for a
                malformed result.
            join: makes the call's result of the results read, in order.
            check: raises `InvalidInputError` where the call must not be sent. It runs in a thread,
                and may take long.
        """
        self._transport.require_open(operation)
        turn = self._sequencer.turn(operation, len(bodies))
        state = RequestState(operation)

        async def work() -> T:
            async with self._encode_ahead(turn, bodies) as requests, self._hold(turn, state):
                if check is not None:
                    await self._check_input(turn, check)
                await self._await_batches(operation)
                results = await turn.run_to_end(self._send(turn, state, requests, read))
            return join(await results())

        return self._start(turn, work, state)

    def run_checked(
        self,
        operation: str,
        body: RequestBuilders,
        read: Callable[[Payload], R],
        check: Callable[[SendForward[Any]], Awaitable[TinkexError | None]],
        advise: Callable[[TinkexError], str | None],
    ) -> AsyncAPIFuture[R]:
        """Runs a call of one request, and checks its effect before any other call is sent.

        When the call or its check fails, the calls that the user made before they could know of it
        are skipped.

        Args:
            operation: the call's name.
            body: the request.
            read: reads its result.
            check: examines the model by the forward passes that its argument sends; returns the
                error to raise, or None.
            advise: returns advice for an error that comes without.
        """
        self._transport.require_open(operation)
        turn = self._sequencer.turn(operation, 1)
        state = RequestState(operation)

        async def send_forward(body: RequestBuilders, read: Callable[[Payload], Any]) -> Any:
            [result] = await (await turn.run_to_end(self._send_extra_forward(turn, body, read)))()
            return result

        async def send_and_check() -> R:
            async with self._encode_ahead(turn, [body]) as requests, self._hold(turn, state):
                await self._await_batches(operation)
                sent = await turn.run_to_end(self._sender.send_all(turn, state, requests))
                try:
                    [result] = await self._sender.results(sent, read)
                    if error := await check(send_forward):
                        raise error
                except TinkexError as error:
                    self._note_refusal(turn, error)
                    raise
            return result

        async def work() -> R:
            try:
                return await send_and_check()
            except TinkexError as error:
                error.advice = error.advice or advise(error)
                raise

        return self._start(turn, work, state)

    def run_two_passes(
        self,
        operation: str,
        first: Sequence[RequestBuilders],
        read: Callable[[Payload], R],
        prepare_second: Callable[
            [Sequence[R]], tuple[Sequence[RequestBuilders], Callable[[Sequence[R]], T]]
        ],
    ) -> AsyncAPIFuture[T]:
        """Runs a call whose second requests depend on the results of its first ones.

        No other call is sent between them.

        Args:
            operation: the call's name.
            first: the first requests, all of them forward passes.
            read: reads the result of one request, of the first or of the second ones.
            prepare_second: makes of the first results the second requests, and the function that
                makes the call's result of their results. It runs in a thread, and may take long.
        """
        self._transport.require_open(operation)
        turn = self._sequencer.turn(operation, len(first))
        state = RequestState(operation)

        async def work() -> T:
            async with self._encode_ahead(turn, first) as requests, self._hold(turn, state):
                sent = await turn.run_to_end(
                    self._sender.send_all(turn, RequestState("forward"), requests)
                )
                try:
                    bodies, join = await in_thread(
                        prepare_second, await self._sender.results(sent, read)
                    )
                # a cancellation, too: the calls that are queued were to follow the gradients
                except BaseException as error:
                    state.failure = _as_tinkex_error(error, operation)
                    # a user who cancels knows of it
                    state.failure.delivered = isinstance(error, asyncio.CancelledError)
                    self._sequencer.note_refusal(state.failure, changes=True)
                    raise
                second = self._encoded(bodies)
                results = await turn.run_to_end(self._send(turn, state, second, read))
            return join(await results())

        return self._start(turn, work, state)

    def send_forward(self, body: RequestBuilders, read: Callable[[Payload], R]) -> asyncio.Task[R]:
        """Sends a forward pass that is not a call of the user; returns the wait for its result.

        When it fails, later calls go on.
        """
        turn = self._sequencer.turn("forward", 1)

        async def work() -> R:
            async with self._hold(turn, RequestState("forward")):
                results = await turn.run_to_end(self._send_extra_forward(turn, body, read))
            [result] = await results()
            return result

        task = asyncio.create_task(work(), name="tinkex extra forward")
        task.add_done_callback(lambda _: turn.leave())
        return task

    def _start(
        self, turn: Turn, work: Callable[[], Awaitable[T]], state: RequestState
    ) -> AsyncAPIFuture[T]:
        """Starts a call, and returns its future. The turn ends with it, also before it was held."""
        future = AsyncAPIFuture(self._report(work, state), state, self._session.failures)
        future.task.add_done_callback(lambda _: turn.leave())
        if state.operation != "forward":
            self._session.failures.note_begun(future.task, state.operation)
        self._check_pipelining(future)
        return future

    def _check_pipelining(self, future: AsyncAPIFuture[Any]) -> None:
        """Warns when the user's loop keeps the server waiting."""
        operation, clock = future.state.operation, self._transport.clock
        advice = self._pipeline.submitted(operation, clock.now())
        # an overtaking server gets a step only after its batches, in any case
        if advice and not self._transport.server.dialect.overtakes:
            logger.warning("%s", advice)
        future.task.add_done_callback(lambda _: self._pipeline.finished(operation, clock.now()))

    async def _report(self, work: Callable[[], Awaitable[T]], state: RequestState) -> T:
        """Returns the result of `work`, and emits an event that says how it ended."""
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
    async def _hold(self, turn: Turn, state: RequestState) -> AsyncGenerator[None]:
        """Waits for the turn, and holds it. When the wait times out, queued calls are skipped."""
        if not turn.has_come:
            try:
                with self._transport.wait(state, "its turn") as wait:
                    wait.set_owner("turn")
                    await turn.wait()
            except WaitTimeoutError as error:
                self._note_refusal(turn, error)
                raise
        # a lost session says more than that an earlier call of it failed
        self._session.check(turn.operation)
        async with turn:
            yield

    @asynccontextmanager
    async def _hold_unnumbered_turn(self, turn: Turn) -> AsyncGenerator[None]:
        async with self._hold(turn, RequestState(turn.operation)):
            await self._await_batches(turn.operation)
            yield

    @asynccontextmanager
    async def _encode_ahead(
        self, turn: Turn, bodies: Sequence[RequestBuilders]
    ) -> AsyncGenerator[EncodedRequests]:
        """Encodes a call's first request while the call before it is being sent."""
        async with self._encoders:
            requests = self._encoded(bodies)
            requests.encode_ahead(0, turn.expected_seq_id)
            try:
                yield requests
            finally:
                requests.discard()

    def _encoded(self, bodies: Sequence[RequestBuilders]) -> EncodedRequests:
        return EncodedRequests(bodies, self._transport.server.dialect.encodings)

    async def _send(
        self,
        turn: Turn,
        state: RequestState,
        requests: EncodedRequests,
        read: Callable[[Payload], R],
    ) -> _Results[R]:
        sent = await self._sender.send_all(turn, state, requests)
        return self._wait_for_results(state.operation, sent, read)

    async def _send_extra_forward(
        self, turn: Turn, body: RequestBuilders, read: Callable[[Payload], R]
    ) -> _Results[R]:
        sent = await self._sender.send_all(
            turn, RequestState("forward"), self._encoded([body]), optional=True
        )
        return self._wait_for_results("forward", sent, read)

    def _wait_for_results(
        self, operation: str, sent: Sequence[SentRequest], read: Callable[[Payload], R]
    ) -> _Results[R]:
        """Returns the function that waits for the results of requests.

        If later calls must wait for these results, too, the wait begins at once, and outlives a
        user who stops waiting.
        """
        if operation not in _BATCHES or not self._transport.server.dialect.overtakes:
            return partial(self._sender.results, sent, read)
        task = asyncio.create_task(
            self._sender.results(sent, read), name=f"tinkex result of {operation}"
        )
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)
        # maybe nobody else retrieves its error
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return partial(asyncio.shield, task)

    async def _await_batches(self, operation: str) -> None:
        """Waits until earlier batches end, if the server might run this operation before them."""
        if operation not in _BATCHES and self._batches:
            await asyncio.wait(self._batches)

    async def _check_input(self, turn: Turn, check: Callable[[], None]) -> None:
        """Runs a check in a thread. When it fails, calls that were made meanwhile are skipped."""
        try:
            await in_thread(check)
        except TinkexError as error:
            self._note_refusal(turn, error)
            raise

    def _note_refusal(self, turn: Turn, error: TinkexError) -> None:
        changes = resend.effect_of(turn.operation) == "changes"
        self._sequencer.note_refusal(error, changes=changes)


def _as_tinkex_error(error: BaseException, operation: str) -> TinkexError:
    return (
        error
        if isinstance(error, TinkexError)
        else TinkexError(f"it raised {error!r}", operation=operation)
    )
