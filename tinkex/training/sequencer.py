"""The order of a model's requests: fixed when a method is called, kept when requests are sent, with
consecutive numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from attrs import define, field

from tinkex.errors import ClientPoisonedError, RequestFailedError, RequestSkippedError, TinkexError

T = TypeVar("T")


@define(eq=False)
class _FailureNotice:
    """A failure, and the first call that its user may have made in knowledge of it.

    Calls made earlier were meant to build on what failed, so they are skipped.
    """

    errors: list[TinkexError]
    """The errors that tell the user of the failure."""
    known_from: int | None = None
    """The number of the first turn given after the user got one of the errors."""

    def note_turn(self, turn: int) -> None:
        if self.known_from is None and any(error.delivered for error in self.errors):
            self.known_from = turn

    def skips(self, turn: int) -> bool:
        return self.known_from is None or turn < self.known_from


@define(eq=False)
class Sequencer:
    """The turns of one model's calls, and the numbers of its requests. For one event loop.

    A request's number (`seq_id`, from 1) is taken when its call's turn comes. So a call that is
    cancelled before its turn leaves no gap for which the server would wait, and a request that the
    server refuses takes no number.

    After a refused request, or after the server lost steps of the model, the calls that the user
    made before they could know of it are skipped. After a request whose outcome is unknown, no
    other request is sent.
    """

    _next_seq_id: int = 1
    _expected_seq_id: int = 1
    _turns_given: int = 0
    _last_turn: asyncio.Future[None] | None = None
    _poison: TinkexError | None = None
    _refusal: _FailureNotice | None = None
    _lost_steps: _FailureNotice | None = None
    _state_loss: int | None = None
    """The server's number of the last loss of the model's state."""
    _awaited_results: int = 0
    _no_result_awaited: asyncio.Event = field(factory=asyncio.Event)
    _free_number: int | None = None

    def turn(self, operation: str, requests: int = 0) -> Turn:
        """Returns the last place in the order, for a call of so many numbered requests.

        `async with` waits until the turn comes.
        """
        if self._last_turn is None or self._last_turn.done():
            self._expected_seq_id = self._next_seq_id
        for notice in (self._refusal, self._lost_steps):
            if notice is not None:
                notice.note_turn(self._turns_given)
        turn = Turn(
            self, operation, requests, self._turns_given, self._expected_seq_id, self._last_turn
        )
        self._turns_given += 1
        self._expected_seq_id += requests
        self._last_turn = turn.ended
        return turn

    @property
    def next_seq_id(self) -> int:
        return self._next_seq_id

    def take_numbers(self, requests: int = 1) -> None:
        """Counts requests that the server accepted, numbered from `next_seq_id`."""
        self._next_seq_id += requests

    def note_refusal(self, error: TinkexError, *, changes: bool) -> None:
        """Makes the calls that are queued now be skipped: a request before them was refused, or
        came to nothing.

        Args:
            error: the reason, which the user gets from the refused call.
            changes: whether the request would have changed the model. If so, calls made until the
                user gets the error are skipped as well.
        """
        self._refusal = _FailureNotice([error], known_from=None if changes else self._turns_given)

    def note_state_loss(self, error: RequestFailedError) -> None:
        """Makes the calls that build on lost steps be skipped, if the error tells of lost steps."""
        if error.state_loss is None:
            return
        if self._lost_steps is None or self._state_loss != error.state_loss:
            self._lost_steps, self._state_loss = _FailureNotice([]), error.state_loss
        self._lost_steps.errors.append(error)

    @contextmanager
    def awaiting_result(self) -> Generator[None]:
        """Marks the time in which the result of a request is awaited."""
        self._awaited_results += 1
        self._no_result_awaited.clear()
        try:
            yield
        finally:
            self._awaited_results -= 1
            if not self._awaited_results:
                self._no_result_awaited.set()

    def free_number(self, seq_id: int) -> None:
        """Gives a number, and those above it, to later requests: the server did not use it.

        `reclaim_numbers` does so once no result is awaited.
        """
        self._free_number = min(seq_id, self._free_number or seq_id)

    async def reclaim_numbers(self) -> None:
        """Sets the next number back to one that was freed, if there is one."""
        if self._free_number is None:
            return
        if self._awaited_results:
            await self._no_result_awaited.wait()
        self._next_seq_id, self._free_number = self._free_number, None

    def poison(self, error: TinkexError) -> None:
        """Makes each later call fail, since nobody knows which requests the server has."""
        self._poison = self._poison or error

    def check(self, turn: Turn) -> None:
        """Raises the reason why the call of this turn must not be sent, if there is one."""
        if self._poison is not None:
            raise ClientPoisonedError(
                f"not sent: the outcome of an earlier {self._poison.operation or 'request'} is "
                f"unknown: {self._poison.message}",
                operation=turn.operation,
                advice="Make a new training client from the last saved state.",
            ) from self._poison
        if not turn.requests:  # it does not build on earlier requests
            return
        if self._refusal is not None and self._refusal.skips(turn.number):
            refused = self._refusal.errors[0]
            raise RequestSkippedError(
                "not sent: it was called before you could know that an earlier "
                f"{refused.operation or 'request'} failed: {refused.message}",
                operation=turn.operation,
                advice="Correct that request and make both calls again.",
            ) from refused
        if self._lost_steps is not None and self._lost_steps.skips(turn.number):
            failure = self._lost_steps.errors[0]
            raise RequestSkippedError(
                "not sent: it was called before you could know that the model has lost steps: "
                f"{failure.message}",
                operation=turn.operation,
                advice="Continue from the state that the model was restored to.",
            ) from failure


@define(eq=False)
class Turn:
    """The place of one call in the order."""

    sequencer: Sequencer
    operation: str
    requests: int
    """The number of the call's numbered requests."""
    number: int
    expected_seq_id: int
    """The call's first seq_id, unless an earlier call is refused or needs another number of
    requests than it announced.
    """
    _before: asyncio.Future[None] | None
    _sending: asyncio.Future[Any] | None = None
    """The task that must end before the next turn may come."""
    _left: bool = False
    ended: asyncio.Future[None] = field(factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def has_come(self) -> bool:
        return self._before is None or self._before.done()

    async def wait(self) -> None:
        """Waits until the turn comes. A cancelled wait gives up the turn."""
        try:
            if self._before is not None:
                await asyncio.shield(self._before)
        except BaseException:
            self.leave()
            raise

    async def run_to_end(self, sending: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine, and returns its result.

        When the caller is cancelled, the coroutine runs on and keeps the turn, so that its outcome
        becomes known and its numbers are either used or free.
        """
        task = self._sending = asyncio.create_task(sending, name=f"tinkex {self.operation}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # nobody else retrieves its error
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise

    def leave(self) -> None:
        """Gives up the turn. The next one comes when all turns before it, and what this one sends,
        have ended.
        """
        if self._left:
            return
        self._left = True
        pending = [
            future
            for future in (self._before, self._sending)
            if future is not None and not future.done()
        ]
        if not pending:
            self._end()
        for future in pending:
            future.add_done_callback(
                lambda _: self._end() if all(other.done() for other in pending) else None
            )

    async def __aenter__(self) -> Turn:
        await self.wait()
        try:
            self.sequencer.check(self)
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
