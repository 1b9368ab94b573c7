"""The order of a model's requests: fixed when a method is called, kept on the wire, numbered
without a gap.
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
class _News:
    """A thing that the user has to know before what is called later makes sense, and whether that
    may be so.
    """

    errors: list[TinkexError]
    """All that tell of it."""
    known_from: int | None = None
    """The first turn that was asked for by a user who may know."""

    def note(self, turn: int) -> None:
        if self.known_from is None and any(error.delivered for error in self.errors):
            self.known_from = turn

    def is_news_to(self, turn: int) -> bool:
        return self.known_from is None or turn < self.known_from


@define(eq=False)
class Sequencer:
    """Gives each call its turn. For one event loop.

    A turn's numbers (`seq_id`, from 1) are taken when it comes, so a call that is cancelled before
    leaves no hole that the server would wait behind. A request that the server refused took no
    number. What a user asks for before they can know of that, or that the server has lost steps of
    the model, was meant to follow what is missing, and is skipped. A request whose fate is unknown
    ends the line for good.
    """

    _next_seq_id: int = 1
    _expected_seq_id: int = 1
    _turns_given: int = 0
    _end_of_line: asyncio.Future[None] | None = None
    _poison: TinkexError | None = None
    _refusal: _News | None = None
    _loss: _News | None = None
    _loss_number: int | None = None
    _unsettled: int = 0
    _all_settled: asyncio.Event = field(factory=asyncio.Event)
    _free_number: int | None = None

    def turn(self, operation: str, requests: int = 0) -> Turn:
        """A place at the end of the line for a call of so many numbered requests; `async with`
        waits until it comes.
        """
        if self._end_of_line is None or self._end_of_line.done():
            self._expected_seq_id = self._next_seq_id
        for news in (self._refusal, self._loss):
            if news is not None:
                news.note(self._turns_given)
        turn = Turn(
            self, operation, requests, self._turns_given, self._expected_seq_id, self._end_of_line
        )
        self._turns_given += 1
        self._expected_seq_id += requests
        self._end_of_line = turn.over
        return turn

    @property
    def next_seq_id(self) -> int:
        return self._next_seq_id

    def accepted(self, requests: int = 1) -> None:
        """So many requests, numbered from `next_seq_id`, were taken on by the server."""
        self._next_seq_id += requests

    def refused(self, error: TinkexError, *, changes: bool) -> None:
        """The request was not taken on, and its number stays free, or it came to nothing. All calls
        queued by now are skipped.

        Args:
            changes: whether it would have changed the model; then what is called before the user
                gets the error is skipped, too.
        """
        self._refusal = _News([error], known_from=None if changes else self._turns_given)

    def lost(self, error: RequestFailedError) -> None:
        """A request failed, maybe since the model lost steps: what was asked for on top of them is
        then skipped.
        """
        if error.state_loss is None:
            return
        if self._loss is None or self._loss_number != error.state_loss:
            self._loss, self._loss_number = _News([]), error.state_loss
        self._loss.errors.append(error)

    @contextmanager
    def unsettled(self) -> Generator[None]:
        """While the result of a request is awaited."""
        self._unsettled += 1
        self._all_settled.clear()
        try:
            yield
        finally:
            self._unsettled -= 1
            if not self._unsettled:
                self._all_settled.set()

    def number_free(self, seq_id: int) -> None:
        """The server did not use this number, or a higher one: the next request gets it, once all
        under way are settled.
        """
        self._free_number = min(seq_id, self._free_number or seq_id)

    async def settle(self) -> None:
        """Takes the count back to a number that was left free."""
        if self._free_number is None:
            return
        if self._unsettled:
            await self._all_settled.wait()
        self._next_seq_id, self._free_number = self._free_number, None

    def poison(self, error: TinkexError) -> None:
        """Nobody knows what the server has: nothing more is sent."""
        self._poison = self._poison or error

    def check(self, turn: Turn) -> None:
        if self._poison is not None:
            raise ClientPoisonedError(
                f"not sent: an earlier {self._poison.operation or 'request'} ended in doubt: "
                f"{self._poison.message}",
                operation=turn.operation,
                advice="Make a new training client from the last saved state.",
            ) from self._poison
        if not turn.requests:  # it does not build on what came before
            return
        if self._refusal is not None and self._refusal.is_news_to(turn.number):
            refused = self._refusal.errors[0]
            raise RequestSkippedError(
                "not sent: it was called before you could know that an earlier "
                f"{refused.operation or 'request'} failed: {refused.message}",
                operation=turn.operation,
                advice="Mend that request and call both again.",
            ) from refused
        if self._loss is not None and self._loss.is_news_to(turn.number):
            lost = self._loss.errors[0]
            raise RequestSkippedError(
                "not sent: it was called before you could know that the model has lost steps: "
                f"{lost.message}",
                operation=turn.operation,
                advice="Go on from the state that the model went back to.",
            ) from lost


@define(eq=False)
class Turn:
    """One call's place in the line."""

    sequencer: Sequencer
    operation: str
    requests: int
    """How many numbered ones it is for."""
    number: int
    expected_seq_id: int
    """The first number that the call gets, unless one before it is refused or is of another size
    than it was said.
    """
    _before: asyncio.Future[None] | None
    _sending: asyncio.Future[Any] | None = None
    """What goes on, and must end, before the next one may go."""
    _left: bool = False
    over: asyncio.Future[None] = field(factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def has_come(self) -> bool:
        return self._before is None or self._before.done()

    async def come(self) -> None:
        """Returns when it has come; whoever gives up waiting gives up the turn."""
        try:
            if self._before is not None:
                await asyncio.shield(self._before)
        except BaseException:
            self.leave()
            raise

    async def unbroken(self, sending: Coroutine[Any, Any, T]) -> T:
        """Returns what comes of it. It goes on, and keeps the turn, when the one who waits for it
        is cancelled.

        So its fate is known in the end, and its numbers are used or free.
        """
        task = self._sending = asyncio.create_task(sending, name=f"tinkex {self.operation}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # nobody else sees it
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise

    def leave(self) -> None:
        """Gives the place up, once: the next in line may go when all before it, and what this one
        sends, are over.
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
        await self.come()
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
        if not self.over.done():
            self.over.set_result(None)
