"""`CoreSharing`: how torch's threads wait for each other, by whether others want their cores.

A step of training consists of hundreds of short parallel regions, and at the end of each, threads
wait for each other. On idle cores it is best to spin: a small step takes half as long as if each
region waited for the system to wake a thread. On cores that others want as well, a thread that
spins uses up the time that it will want a moment later, and a step takes up to twenty times as
long.

GNU's OpenMP reads how long to spin once, when it is loaded, but does not spin while it manages more
threads than there are cores
(https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html). A second team of threads, which
does nothing, is therefore a switch.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch
from attrs import define, frozen

_PERIOD = 0.05
"""The seconds between two observations while there is work."""
_IDLE_PERIOD = 1.0
_WANTED_BY_OTHERS = 0.3
"""The share of the time in which a thread wants a core that it waits for one, from which on threads
do not spin. It was below 0.1 on idle cores and above 0.7 on crowded ones.
"""
_LEAST_WANTED = 0.1
"""The seconds that a thread must want a core for the share to mean anything: others run for a
moment on idle cores, too.
"""
_PATIENCE, _MOST_PATIENCE = 1.0, 16.0
"""The seconds without spinning before it is tried again; they double with each try that fails.

Threads that sleep wait for a core whenever they are woken, so whether others still want it can only
be seen by trying.
"""
_SEVERAL_THREADS = 1 << 17  # elements; torch adds them by several threads


@frozen
class CoreTime:
    """The seconds that a thread ran, and that it waited for a core, so far."""

    ran: float
    waited: float


@define
class SpinPolicy:
    """Decides whether threads spin, from what one of them observes of itself."""

    spins: bool = True
    _so_far: CoreTime = CoreTime(0.0, 0.0)
    """The thread's times when the last decision was made."""
    _since: float = -_MOST_PATIENCE
    _patience: float = _PATIENCE

    def observe(self, now: CoreTime, clock: float) -> bool:
        """Returns whether to spin until the next observation; `clock` is the time in seconds."""
        waited = now.waited - self._so_far.waited
        wanted = now.ran - self._so_far.ran + waited
        if not self.spins:
            self._so_far = now
            if clock - self._since >= self._patience:
                self.spins, self._since = True, clock
        elif wanted >= _LEAST_WANTED:
            self._so_far = now
            if waited >= _WANTED_BY_OTHERS * wanted:
                failed = clock - self._since < _PATIENCE
                self._patience = min(2 * self._patience, _MOST_PATIENCE) if failed else _PATIENCE
                self.spins, self._since = False, clock
        return self.spins


class CoreSharing:
    """A watch over one thread that computes by torch on the CPU."""

    def __init__(self, thread_id: int) -> None:
        """Watches the thread of this process that has this id of the system."""
        self._file = Path(f"/proc/self/task/{thread_id}/schedstat")
        self._policy = SpinPolicy()
        self._team_size = torch.get_num_threads()
        self._second_team: _SecondTeam | None = None
        self._work = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tinkex-core-sharing", daemon=True)
        self._thread.start()

    @staticmethod
    def possible() -> bool:
        """Returns whether there is something to decide: torch computes with several threads of
        GNU's OpenMP, and the environment does not say how they wait.
        """
        return (
            sys.platform == "linux"
            and "OMP_WAIT_POLICY" not in os.environ
            and torch.get_num_threads() > 1
            and "libgomp" in Path("/proc/self/maps").read_text()
        )

    @property
    def spins(self) -> bool:
        """Whether threads spin at present."""
        return self._policy.spins

    def expect_work(self) -> None:
        """Observes the thread closely until it has nothing to do."""
        if not self._work.is_set():
            self._work.set()

    def close(self) -> None:
        self._closed.set()
        self._work.set()
        self._thread.join()

    def _watch(self) -> None:
        # the kernel may not count, and the thread may end first
        with suppress(OSError):
            before = self._core_time()
            while not self._closed.wait(_PERIOD):
                now = self._core_time()
                if now == before:
                    self._work.clear()
                    self._work.wait(_IDLE_PERIOD)
                self._set(self._policy.observe(now, time.monotonic()))
                before = now
        self._set(True)

    def _core_time(self) -> CoreTime:
        ran, waited, _ = self._file.read_text().split()
        return CoreTime(int(ran) / 1e9, int(waited) / 1e9)

    def _set(self, spins: bool) -> None:
        if spins and self._second_team:
            self._second_team.end()
            self._second_team = None
        elif not spins and not self._second_team:
            self._second_team = _SecondTeam(self._team_size)


class _SecondTeam:
    """A team of OpenMP's threads beside that of the thread that computes. It sleeps."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._hold, name="tinkex-second-team", daemon=True)
        self._thread.start()

    def _hold(self) -> None:
        # the thread that computes may have told torch to use one thread for the moment
        torch.get_num_threads()
        torch.set_num_threads(self._size)
        torch.zeros(_SEVERAL_THREADS).add_(1.0)
        self._end.wait()

    def end(self) -> None:
        self._end.set()
        self._thread.join()
