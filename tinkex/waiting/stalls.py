"""`StallWatch`: detects that an event loop is blocked, for how long, and by which line of code.

While something waits on a loop, the loop runs a callback, the beat, at short intervals. One thread
of the process monitors all loops that beat; when a beat is late, it inspects the stack of that
loop's thread. Without waits there are no beats, and soon no thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from weakref import WeakKeyDictionary, ref

from attrs import frozen

from tinkex.waiting.schedule import LogSchedule

logger = logging.getLogger("tinkex")


@frozen(kw_only=True)
class Pace:
    """The intervals of the watch, in seconds."""

    beat: float = 0.25
    late: float = 0.5
    """The delay of a beat that counts as a stall."""
    idle: float = 2.0
    """The time for which a loop goes on beating after its last wait."""


PACE = Pace()
_MAX_STALLS = 32  # remembered


@frozen
class _Stall:
    number: int
    seconds: float
    line: str


class StallWatch:
    """The watch of one event loop.

    `hold`, `release` and the beats run in the loop's thread; all else may be called in any thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pace: Pace) -> None:
        self.count = 0
        """The number of stalls whose line was found."""
        self._recent: deque[_Stall] = deque(maxlen=_MAX_STALLS)
        self._now: _Stall | None = None
        self.pace = pace
        self._loop = ref(loop)
        self._stalled = 0.0
        self._holders = 0
        self._idle_since = 0.0
        self._beating = False
        self._last_beat = 0.0
        self._thread_id = 0
        self._log_schedule: LogSchedule | None = None

    def line_of_longest(self, after: int) -> str | None:
        """Returns the line that blocked the loop longest, as `file:line in function`.

        Only stalls after the first `after` ones count.
        """
        stalls = [
            stall
            for stall in (*self._recent, self._now)
            if stall is not None and stall.number > after
        ]
        return max(stalls, key=lambda stall: stall.seconds).line if stalls else None

    @property
    def seconds(self) -> float:
        """The total time for which the loop was blocked, with the current stall."""
        return self._stalled + self._lateness() if self._beating else self._stalled

    def hold(self) -> None:
        """Records the begin of a wait on the loop, and starts the beats."""
        self._holders += 1
        if not self._beating:
            self._beating, self._last_beat = True, time.monotonic()
            self._schedule_beat()

    def release(self) -> None:
        """Records the end of a wait on the loop."""
        self._holders -= 1
        self._idle_since = time.monotonic()

    def _schedule_beat(self) -> None:
        self._thread_id = threading.get_ident()
        asyncio.get_running_loop().call_later(self.pace.beat, self._beat)
        _monitor(self)

    def _beat(self) -> None:
        self._stalled += self._lateness()
        if self._now is not None:
            self._recent.append(self._now)
        self._last_beat, self._log_schedule, self._now = time.monotonic(), None, None
        if self._holders or self._last_beat - self._idle_since < self.pace.idle:
            self._schedule_beat()
        else:
            self._beating = False

    def _lateness(self) -> float:
        late = time.monotonic() - self._last_beat - self.pace.beat
        return late if late > self.pace.late else 0.0

    @property
    def expects_beat(self) -> bool:
        """Whether the loop should beat: something waits on it, and it runs."""
        loop = self._loop()
        return self._beating and loop is not None and loop.is_running()

    def check(self) -> None:
        """Records a stall if the beat is late. Called in the monitoring thread."""
        if not (late := self._lateness()) or (frame := _frame_of(self._thread_id)) is None:
            return
        if self._log_schedule is None:
            self.count += 1
            self._log_schedule = LogSchedule()
        self._now = _Stall(self.count, late, program_line(frame))
        if self._log_schedule.due(late):
            logger.warning(
                "the event loop has been blocked for %.0f s by %s: this client cannot go on",
                late,
                self._now.line,
            )


_LIBRARIES = (
    *(
        f"{Path(sysconfig.get_paths()[name])}{os.sep}"
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    f"{Path(__file__).parent.parent}{os.sep}",
    "<frozen",
)
"""The folders of code that is not the program's own."""


def _frame_of(thread_id: int) -> FrameType | None:
    return sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage] - a documented function


def program_line(frame: FrameType) -> str:
    """Returns the innermost line of the program's own code, as `file:line in function`.

    Without such a line in the stack it is the innermost line of any code.
    """
    innermost, outer = frame, frame.f_back
    while _is_library(frame) and outer is not None:
        frame, outer = outer, outer.f_back
    found = innermost if _is_library(frame) else frame
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_name}"


def _is_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_LIBRARIES)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, StallWatch] = WeakKeyDictionary()
_monitored: set[StallWatch] = set()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def running_loop_watch() -> StallWatch:
    """Returns the watch of the running event loop."""
    with _lock:
        loop = asyncio.get_running_loop()
        return _watches.setdefault(loop, StallWatch(loop, PACE))


def _monitor(watch: StallWatch) -> None:
    global _thread
    with _lock:
        _monitored.add(watch)
        if _thread is None:
            _thread = threading.Thread(target=_run_monitor, name="tinkex-stalls", daemon=True)
            _thread.start()


def _run_monitor() -> None:
    while watches := _beating_watches():
        time.sleep(min(watch.pace.beat for watch in watches))
        for watch in watches:
            if watch.expects_beat:
                watch.check()


def _beating_watches() -> set[StallWatch]:
    """Returns the watches whose loops beat, and forgets the others.

    When none is left it also forgets the thread, which then ends.
    """
    global _thread
    with _lock:
        _monitored.intersection_update({watch for watch in _monitored if watch.expects_beat})
        if not _monitored:
            _thread = None
        return set(_monitored)


def _reset_in_child() -> None:
    """Resets the monitoring in the child of a fork, where the thread does not run, and where the
    lock may never be released.
    """
    global _thread, _lock
    _thread, _lock = None, threading.Lock()
    _monitored.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
