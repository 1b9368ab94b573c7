"""`Wait`: a bounded wait that reports what it waits for and who causes it. Every wait is one.

After 10 s, and then at growing intervals, a log line and an event describe the wait. The error at
its bound, or any other error that ends a long wait, carries the same facts.
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

_CANCEL_INTERVAL = 5.0  # seconds from one cancellation of a task at its bound to the next
_ROUNDING = 1e-6  # seconds
_GROUPING = 1.0  # seconds; lines that are due within this time are logged as one


QueueObserver: TypeAlias = Callable[[str, str | None], object]
"""A function that is called as `observer(queue_state, reason)`, with the server's texts, in the
thread of the client's event loop. It must not block.
"""


@frozen
class WaitBound:
    """The longest duration of a wait, and the name of its setting."""

    seconds: float
    setting: str


@define(eq=False)
class RequestState:
    """The state of a request in progress. `APIFuture` shows it."""

    operation: str
    request_id: str | None = None
    queue_state: str | None = None
    queue_state_reason: str | None = None
    wait: Wait | None = None
    """The current wait, or the last one."""
    failure: TinkexError | None = None
    """The `TinkexError` that stands in the submission queue for an error of another class."""
    possibly_taken: bool = False
    """Whether an attempt ended without an answer that tells if the server accepted the request."""
    retry: RetrySettings | None = None
    """The retry settings of this request, in place of the client's."""
    observer: QueueObserver | None = None
    """The function that is called when `queue_state` changes."""

    def for_next_request(self) -> RequestState:
        """Returns the state for another request of the same call."""
        return RequestState(self.operation, retry=self.retry, observer=self.observer)

    def note_queue_state(self, queue_state: str | None, reason: str | None) -> bool:
        """Records the server's queue state, and returns whether it has changed."""
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
    """One wait, as a context manager of the task that waits.

    The block ends with `WaitTimeoutError` when the bound is reached.
    """

    state: RequestState
    awaited: str
    bound: WaitBound
    _waits: Waits
    owner: Owner = "computation"
    last_status: int | None = None
    tries: int = 0
    activity: str = ""
    _log_schedule: LogSchedule | None = None
    """Made at the first look for a due line: most waits have ended by then."""
    _seconds: dict[Owner, float] = field(factory=dict[Owner, float])
    _started: float = 0.0
    _since: float = 0.0
    """The time of the last change of owner."""
    _stalled_before: float = 0.0
    _stalls_before: int = 0
    _task: asyncio.Task[object] | None = None
    _cancelling: int = 0
    _cancelled: int = 0
    """The number of cancellations by `expire`."""
    _cancel_at: float = 0.0
    """The age at which `expire` cancels the task next."""

    @property
    def age(self) -> float:
        return self._waits.clock.now() - self._started

    @property
    def due_at(self) -> float:
        """The time of its next log line or cancellation."""
        lines = self._log_schedule
        log_at = schedule.FIRST if lines is None else lines.next_at
        return self._started + min(log_at, self._cancel_at)

    @property
    def log_schedule(self) -> LogSchedule:
        """The ages at which it is logged."""
        if self._log_schedule is None:
            self._log_schedule = LogSchedule()
        return self._log_schedule

    def set_owner(self, owner: Owner, activity: str = "") -> None:
        """Sets who causes the wait from now on. `activity` describes what happens."""
        if owner != self.owner:
            self._account()
        self.owner, self.activity = owner, activity

    def attribute_past_to(self, owner: Owner) -> None:
        """Attributes the time since the last change of owner to `owner`.

        It is for an owner that is known only afterwards.
        """
        self.owner = owner
        self._account()

    def facts(self) -> WaitFacts:
        """Returns the facts of the wait at this moment. May be called in any thread."""
        state, watch = self.state, self._waits.watch
        return WaitFacts(
            operation=state.operation,
            request_id=state.request_id,
            awaited=self.awaited,
            age=self.age,
            owner=self.owner,
            activity=self.activity,
            seconds=self._seconds_by_owner(),
            queue_state=state.queue_state,
            queue_state_reason=state.queue_state_reason,
            last_status=self.last_status,
            tries=self.tries,
            stalled_by=watch.line_of_longest(after=self._stalls_before),
        )

    def expire(self) -> None:
        """Cancels the waiting task when the bound is reached.

        It does so repeatedly, since code in between may have swallowed a cancellation.
        """
        if self.age >= self._cancel_at - _ROUNDING:
            self._cancel_at = self.age + _CANCEL_INTERVAL
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
        watch = self._waits.watch
        self._stalled_before, self._stalls_before = watch.seconds, watch.count
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
            raise self._timeout_error() from error

    def _uncancel(self, task: asyncio.Task[object]) -> bool:
        """Takes back the cancellations of `expire`. Returns whether no others remain."""
        left = task.cancelling()
        for _ in range(self._cancelled):
            left = task.uncancel()
        return left <= self._cancelling

    def _timeout_error(self) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"{self.awaited} did not come within {self.bound.seconds:g} s",
            waited=self.age,
            wait=self.facts(),
            operation=self.state.operation,
            request_id=self.state.request_id,
            advice=f"Raise {self.bound.setting}, or see in `wait` who caused it.",
        )

    def _account(self) -> None:
        now, stalled = self._waits.clock.now(), self._waits.watch.seconds
        self._add_spent(self._seconds, now, stalled)
        self._since, self._stalled_before = now, stalled

    def _seconds_by_owner(self) -> dict[Owner, float]:
        """Returns the seconds by owner up to now."""
        split = dict(self._seconds)
        self._add_spent(split, self._waits.clock.now(), self._waits.watch.seconds)
        return split

    def _add_spent(self, split: dict[Owner, float], now: float, stalled_by_now: float) -> None:
        """Adds the time since the last change of owner. Time in which the event loop was blocked
        counts as the program's.
        """
        spent = now - self._since
        stalled = min(spent, stalled_by_now - self._stalled_before)
        if spent > stalled:
            split[self.owner] = split.get(self.owner, 0.0) + spent - stalled
        if stalled > 0:
            split["program"] = split.get("program", 0.0) + stalled


class Waits:
    """The current waits of one transport, for one event loop. It logs and expires them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._under_way: dict[Wait, None] = {}
        self._watch: StallWatch | None = None
        self._timer: TimerHandle | None = None
        self._timer_at = 0.0
        self._logged_at = float("-inf")

    @property
    def watch(self) -> StallWatch:
        """The stall watch of the event loop."""
        if self._watch is None:
            self._watch = running_loop_watch()
        return self._watch

    def create(
        self, state: RequestState, awaited: str, bound: WaitBound, owner: Owner = "computation"
    ) -> Wait:
        """Returns a wait, to be entered by `with`."""
        return Wait(state, awaited, bound, self, owner)

    def enter(self, wait: Wait) -> None:
        """Adds a wait, and schedules its first log line."""
        self.watch.hold()
        self._under_way[wait] = None
        self._schedule_check(wait.due_at)

    def leave(self, wait: Wait) -> None:
        """Removes a wait."""
        self.watch.release()
        self._under_way.pop(wait, None)

    def _schedule_check(self, time: float) -> None:
        if self._timer is not None:
            if self._timer_at <= time:
                return
            self._timer.cancel()
        self._timer, self._timer_at = (
            self.clock.call_later(max(0.0, time - self.clock.now()), self._check),
            time,
        )

    def _check(self) -> None:
        self._timer = None
        due = [wait for wait in self._under_way if wait.log_schedule.due(wait.age + _GROUPING)]
        self._log(due)
        for wait in self._under_way:
            wait.expire()
        if self._under_way:
            self._schedule_check(min(wait.due_at for wait in self._under_way))

    def _log(self, due: Iterable[Wait]) -> None:
        """Logs one line, and emits one event, for each group of waits with equal causes.

        They describe the oldest wait of the group. A wait for the turn of a call is logged only if
        nothing else was logged for half its age, since the line of the call before it says more.
        """
        now = self.clock.now()
        for group in _group_by_cause(due):
            oldest = max(group, key=lambda facts: facts.age)
            if oldest.owner != "turn" or now - self._logged_at > oldest.age / 2 - _GROUPING:
                logger.warning(
                    "%s%s", oldest, f" ({len(group) - 1} more like it)" if len(group) > 1 else ""
                )
                self._logged_at = now
            events.emit(events.Wait, facts=oldest, alike=len(group) - 1)


def _group_by_cause(waits: Iterable[Wait]) -> list[list[WaitFacts]]:
    """Groups the facts of waits with equal causes. Waits for the turn of a call come last."""
    alike: defaultdict[tuple[str | None, ...], list[WaitFacts]] = defaultdict(list)
    for wait in waits:
        facts = wait.facts()
        alike[
            facts.operation, facts.awaited, facts.owner, facts.queue_state, facts.queue_state_reason
        ].append(facts)
    return sorted(alike.values(), key=lambda group: group[0].owner == "turn")
