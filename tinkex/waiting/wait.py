"""`Wait`: everything that waits goes through one. It says what is waited for, whose the wait is,
and it ends.

After 10 s, and then ever more rarely, a line in the log tells what is known of the wait, and an
event does; the error at its bound, or any other that ends a long wait, carries the same facts.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import TimerHandle
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeAlias

from attrs import define, field, frozen

from tinkex import events
from tinkex.config import RetrySettings
from tinkex.errors import TinkexError, WaitTimeoutError
from tinkex.events import Owner, WaitFacts
from tinkex.waiting import schedule
from tinkex.waiting.clock import Clock
from tinkex.waiting.schedule import LogSchedule
from tinkex.waiting.stalls import StallWatch, running_loop_watch

logger = logging.getLogger("tinkex")

_AGAIN = 5.0  # seconds that what is cancelled at its bound has to end
_ROUNDING = 1e-6  # seconds
_TOGETHER = 1.0  # seconds; lines that are due within so much of each other are said together


QueueObserver: TypeAlias = Callable[[str, str | None], object]
"""Called as `observer(queue_state, reason)`, in the server's words, where the client's event loop
runs. It must not block.
"""


@frozen
class WaitBound:
    """How long a wait may last, and the setting that says so."""

    seconds: float
    setting: str


@define(eq=False)
class RequestState:
    """What is known of a request while it is under way; `APIFuture` shows it."""

    operation: str
    request_id: str | None = None
    queue_state: str | None = None
    queue_state_reason: str | None = None
    wait: Wait | None = None
    """The one that goes on, or went on last."""
    failure: TinkexError | None = None
    """The error by which the line of calls knows of one that is no TinkexError."""
    possibly_taken: bool = False
    """Whether a try brought no answer that says if the server took the request on."""
    retry: RetrySettings | None = None
    """In place of the client's."""
    observer: QueueObserver | None = None
    """Who is told how it waits."""

    def for_next_request(self) -> RequestState:
        """Returns the state of one more request of the same call."""
        return RequestState(self.operation, retry=self.retry, observer=self.observer)

    def note_queue_state(self, queue_state: str | None, reason: str | None) -> bool:
        """Notes how it waits, in the server's words; returns whether that is news."""
        if (self.queue_state, self.queue_state_reason) == (queue_state, reason):
            return False
        self.queue_state, self.queue_state_reason = queue_state, reason
        if self.observer is not None and queue_state is not None:
            try:
                self.observer(queue_state, reason)
            except Exception:
                logger.warning("on_queue_state_change raised: %r", self.observer, exc_info=True)
        return True


@define(eq=False)
class Wait:
    """One wait, as a context manager. For the task that enters it.

    Raises `WaitTimeoutError` out of the block when its bound is reached.
    """

    state: RequestState
    awaited: str
    bound: WaitBound
    _waits: Waits
    last_status: int | None = None
    tries: int = 0
    owner: Owner = "computation"
    activity: str = ""
    lines: LogSchedule = field(factory=LogSchedule)
    _seconds: dict[Owner, float] = field(factory=dict[Owner, float])
    _started: float = 0.0
    _since: float = 0.0
    """When it became its owner's."""
    _stalled_before: float = 0.0
    _stalls_before: int = 0
    _task: asyncio.Task[object] | None = None
    _cancelling: int = 0
    _cancelled: int = 0
    """How often it was cancelled for its age."""
    _cancel_at: float = 0.0
    """The age at which it is cancelled for the next time."""

    @property
    def age(self) -> float:
        return self._waits.clock.now() - self._started

    @property
    def due_at(self) -> float:
        """When it has something to say, or is over."""
        return self._started + min(self.lines.next_at, self._cancel_at)

    def set_owner(self, owner: Owner, activity: str = "") -> None:
        """Notes that the wait has this owner from now on; `activity` says in words what happens."""
        self._settle()
        self.owner, self.activity = owner, activity

    def attribute_past_to(self, owner: Owner) -> None:
        """Since it last changed hands it was `owner`'s, as is known only now."""
        self.owner = owner
        self._settle()

    def facts(self) -> WaitFacts:
        """As it stands. May be called in any thread."""
        state, watch = self.state, self._waits.watch
        return WaitFacts(
            operation=state.operation,
            request_id=state.request_id,
            awaited=self.awaited,
            age=self.age,
            owner=self.owner,
            activity=self.activity,
            seconds=self._split(),
            queue_state=state.queue_state,
            queue_state_reason=state.queue_state_reason,
            last_status=self.last_status,
            tries=self.tries,
            stalled_by=watch.line_of_longest(after=self._stalls_before),
        )

    def expire(self) -> None:
        """Ends it when its bound is reached; again and again, should something on the way have
        taken the cancelling for its own.
        """
        if self.age >= self._cancel_at - _ROUNDING:
            self._cancel_at = self.age + _AGAIN
            if self._task is not None:
                self._cancelled += 1
                self._task.cancel()

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        self._started = self._since = self._waits.clock.now()
        self._cancel_at = self.bound.seconds
        self.state.wait = self
        self._waits.enter(self)
        self._stalled_before, self._stalls_before = (
            self._waits.watch.seconds,
            self._waits.watch.count,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waits.leave(self)
        if self.age >= schedule.FIRST:
            facts = self.facts()
            events.emit(events.Wait, facts=facts, over=True)
            if isinstance(error, TinkexError) and error.wait is None:
                error.wait = facts
        if (
            self._cancelled
            and self._task is not None
            and self._uncancel(self._task)
            and kind is asyncio.CancelledError
        ):
            raise self._not_in_time() from error

    def _uncancel(self, task: asyncio.Task[object]) -> bool:
        """Takes back what `expire` did; returns whether nobody else cancels the task."""
        left = task.cancelling()
        for _ in range(self._cancelled):
            left = task.uncancel()
        return left <= self._cancelling

    def _not_in_time(self) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"{self.awaited} did not come within {self.bound.seconds:g} s",
            waited=self.age,
            wait=self.facts(),
            operation=self.state.operation,
            request_id=self.state.request_id,
            advice=f"Raise {self.bound.setting}, or see whose the wait was.",
        )

    def _settle(self) -> None:
        self._seconds = self._split()
        self._since, self._stalled_before = self._waits.clock.now(), self._waits.watch.seconds

    def _split(self) -> dict[Owner, float]:
        """The seconds by owner; of the time since it last changed hands, what the program stood
        still is the program's.
        """
        split = dict(self._seconds)
        spent = self._waits.clock.now() - self._since
        stalled = min(spent, self._waits.watch.seconds - self._stalled_before)
        if spent > stalled:
            split[self.owner] = split.get(self.owner, 0.0) + spent - stalled
        if stalled > 0:
            split["program"] = split.get("program", 0.0) + stalled
        return split


class Waits:
    """All waits of one transport. For one event loop."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._under_way: dict[Wait, None] = {}
        self._watch: StallWatch | None = None
        self._timer: TimerHandle | None = None
        self._timer_at = 0.0
        self._said_at = float("-inf")

    @property
    def watch(self) -> StallWatch:
        if self._watch is None:
            self._watch = running_loop_watch()
        return self._watch

    def begin(self, state: RequestState, awaited: str, bound: WaitBound) -> Wait:
        """A wait, to be entered by `with`."""
        return Wait(state, awaited, bound, self)

    def enter(self, wait: Wait) -> None:
        self.watch.hold()
        self._under_way[wait] = None
        self._look_at(wait.due_at)

    def leave(self, wait: Wait) -> None:
        self.watch.release()
        self._under_way.pop(wait, None)

    def _look_at(self, time: float) -> None:
        if self._timer is not None:
            if self._timer_at <= time:
                return
            self._timer.cancel()
        self._timer, self._timer_at = (
            self.clock.call_later(max(0.0, time - self.clock.now()), self._look),
            time,
        )

    def _look(self) -> None:
        self._timer = None
        due = [wait for wait in self._under_way if wait.lines.due(wait.age + _TOGETHER)]
        self._say(due)
        for wait in self._under_way:
            wait.expire()
        if self._under_way:
            self._look_at(min(wait.due_at for wait in self._under_way))

    def _say(self, due: Iterable[Wait]) -> None:
        """One line, and one event, for all that wait in the same way; it tells of the oldest.

        What waits for its turn has a line only where nothing was said for half its age: the call
        before it says what it waits for.
        """
        now = self.clock.now()
        for group in _alike(due):
            oldest = max(group, key=lambda facts: facts.age)
            if oldest.owner != "turn" or now - self._said_at > oldest.age / 2 - _TOGETHER:
                logger.warning(
                    "%s%s", oldest, f" ({len(group) - 1} more like it)" if len(group) > 1 else ""
                )
                self._said_at = now
            events.emit(events.Wait, facts=oldest, alike=len(group) - 1)


def _alike(waits: Iterable[Wait]) -> list[list[WaitFacts]]:
    """The facts of those that wait in the same way, group by group; those that wait for their turn
    come last.
    """
    alike: defaultdict[tuple[str | None, ...], list[WaitFacts]] = defaultdict(list)
    for wait in waits:
        facts = wait.facts()
        alike[
            facts.operation, facts.awaited, facts.owner, facts.queue_state, facts.queue_state_reason
        ].append(facts)
    return sorted(alike.values(), key=lambda group: group[0].owner == "turn")
