"""`StallWatch`: sees when an event loop stands still, for how long, and at which line of the
program.

A loop beats while something waits on it. One thread of the process listens to all loops that beat;
when a beat is late, it looks at the stack of that loop's thread. Without a wait there is no beat,
and soon no thread.
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
    """All in seconds."""

    beat: float = 0.25
    late: float = 0.5
    """A beat that is later by so much shows a stall."""
    idle: float = 2.0
    """How long a loop beats on when nothing waits on it any more."""


PACE = Pace()
_KEPT = 32  # stalls


@frozen
class _Stall:
    number: int
    seconds: float
    line: str


class StallWatch:
    """Of one event loop; `hold`, `release` and the beats are its thread's, all else is for any
    thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pace: Pace) -> None:
        self.count = 0
        """Stalls whose line was found."""
        self._recent: deque[_Stall] = deque(maxlen=_KEPT)
        self._now: _Stall | None = None
        self.pace = pace
        self._loop = ref(loop)
        self._stalled = 0.0
        self._holders = 0
        self._idle_since = 0.0
        self._beating = False
        self._last_beat = 0.0
        self._thread_id = 0
        self._lines: LogSchedule | None = None

    def line_of_longest(self, after: int) -> str | None:
        """The line that held up the loop longest since there were `after` stalls, as `file:line in
        function`.
        """
        stalls = [
            stall
            for stall in (*self._recent, self._now)
            if stall is not None and stall.number > after
        ]
        return max(stalls, key=lambda stall: stall.seconds).line if stalls else None

    @property
    def seconds(self) -> float:
        """For how long the loop has stood still in all, the stall under way included."""
        return self._stalled + self._lateness() if self._beating else self._stalled

    def hold(self) -> None:
        """Something waits on the loop."""
        self._holders += 1
        if not self._beating:
            self._beating, self._last_beat = True, time.monotonic()
            self._beat_later()

    def release(self) -> None:
        self._holders -= 1
        self._idle_since = time.monotonic()

    def _beat_later(self) -> None:
        self._thread_id = threading.get_ident()
        asyncio.get_running_loop().call_later(self.pace.beat, self._beat)
        _listen_to(self)

    def _beat(self) -> None:
        self._stalled += self._lateness()
        if self._now is not None:
            self._recent.append(self._now)
        self._last_beat, self._lines, self._now = time.monotonic(), None, None
        if self._holders or self._last_beat - self._idle_since < self.pace.idle:
            self._beat_later()
        else:
            self._beating = False

    def _lateness(self) -> float:
        late = time.monotonic() - self._last_beat - self.pace.beat
        return late if late > self.pace.late else 0.0

    @property
    def listening(self) -> bool:
        """Whether a beat is to be expected: no longer when nothing waits, or when the loop does not
        run.
        """
        loop = self._loop()
        return self._beating and loop is not None and loop.is_running()

    def listen(self) -> None:
        """Looks at the stack if the beat is late. Called by the listening thread."""
        if not (late := self._lateness()) or (frame := _frame_of(self._thread_id)) is None:
            return
        if self._lines is None:
            self.count += 1
            self._lines = LogSchedule()
        self._now = _Stall(self.count, late, place_of(frame))
        if self._lines.due(late):
            words = (
                "the event loop has stood still for %.0f s, held up by %s: nothing of this client "
                "goes on"
            )
            logger.warning(words, late, self._now.line)


_LIBRARIES = (
    *(
        f"{Path(sysconfig.get_paths()[name])}{os.sep}"
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    f"{Path(__file__).parent.parent}{os.sep}",
    "<frozen",
)
"""Where code lies that is not the program's own."""


def _frame_of(thread_id: int) -> FrameType | None:
    return sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage] - a documented function


def place_of(frame: FrameType) -> str:
    """The innermost line that is the program's own, or else any, as `file:line in function`."""
    innermost, outer = frame, frame.f_back
    while _is_library(frame) and outer is not None:
        frame, outer = outer, outer.f_back
    found = innermost if _is_library(frame) else frame
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_name}"


def _is_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_LIBRARIES)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, StallWatch] = WeakKeyDictionary()
_listened: set[StallWatch] = set()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def running_loop_watch() -> StallWatch:
    """The watch of the running loop."""
    with _lock:
        loop = asyncio.get_running_loop()
        return _watches.setdefault(loop, StallWatch(loop, PACE))


def _listen_to(watch: StallWatch) -> None:
    global _thread
    with _lock:
        _listened.add(watch)
        if _thread is None:
            _thread = threading.Thread(target=_listen, name="tinkex-stalls", daemon=True)
            _thread.start()


def _listen() -> None:
    while watches := _those_that_beat():
        time.sleep(min(watch.pace.beat for watch in watches))
        for watch in watches:
            if watch.listening:
                watch.listen()


def _those_that_beat() -> set[StallWatch]:
    """Forgets the others; when there are none left, the thread too, which then ends."""
    global _thread
    with _lock:
        _listened.intersection_update({watch for watch in _listened if watch.listening})
        if not _listened:
            _thread = None
        return set(_listened)


def _forget() -> None:
    """In the child of a fork, where the thread does not run and the lock may be held for ever."""
    global _thread, _lock
    _thread, _lock = None, threading.Lock()
    _listened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
