"""`Child`: one process with an engine in it, from start to exit, as the server sees it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from attrs import frozen

from tinkex_server.engine.interface import (
    EngineDied,
    OnToken,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.process import frames
from tinkex_server.engine.process.hang_detector import Activity
from tinkex_server.engine.process.heartbeat import DUMP_SIGNAL
from tinkex_server.engine.process.messages import (
    Call,
    CallFailure,
    CallResult,
    Cancel,
    EngineFactory,
    Heartbeat,
    Ready,
    StartSample,
    TokenSampled,
)
from tinkex_server.engine.remote_errors import startup_error

_CLOSING = 5.0  # seconds for the process to exit by itself
_DUMP_TIME = 0.5  # seconds
_SHORT_SPIN = {
    "GOMP_SPINCOUNT": "20000",  # GNU's OpenMP; well under a millisecond
    "KMP_BLOCKTIME": "1",  # Intel's and LLVM's; milliseconds
}


@frozen
class _Pending:
    future: Future[Any]
    on_token: OnToken | None = None


class Child:
    """A child process that runs an engine. Calls may come from any thread, also before it is ready;
    one thread must run `read`.
    """

    def __init__(self, factory: EngineFactory) -> None:
        self.ready: Future[str] = Future()
        # many callers wait for it, and none may cancel it
        self.ready.set_running_or_notify_cancel()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the next two
        self._pending: dict[int, _Pending] = {0: _Pending(self.ready)}
        self._died: EngineDied | None = None
        self._messages = self._answers = 0
        self._cpu = 0.0
        self._process = _spawn()
        self._outgoing: SimpleQueue[frames.Frame | None] = SimpleQueue()
        self._outgoing.put(frames.pack(factory))
        # a thread of its own, since a write blocks while the process is slow to read
        self._writer = threading.Thread(
            target=self._write, name="tinkex-engine-writer", daemon=True
        )
        self._writer.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, method: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Future[Any]:
        return self._send(lambda number: Call(number, method, args, kwargs), None)[1]

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None
    ) -> Future[SampleResult]:
        """Starts a sample. Cancelling the future ends it."""
        number, future = self._send(
            lambda number: StartSample(number, sampler_id, spec, on_token is not None), on_token
        )

        def ended(_: Future[SampleResult]) -> None:
            if future.cancelled() and self._pop_pending(number):
                self._outgoing.put(frames.pack(Cancel(number)))

        future.add_done_callback(ended)
        return future

    def read(self) -> int:
        """Dispatches replies as they arrive until the process has exited; returns its exit code."""
        assert self._process.stdout
        with self._process.stdout as incoming, suppress(EOFError):
            while True:
                self._dispatch(frames.read(incoming))
        self._outgoing.put(None)
        self._writer.join()
        return self._process.wait()

    def activity(self) -> Activity:
        """Returns what the process has done so far. A process that is not ready counts as idle,
        since loading a model may take any time.
        """
        return Activity(
            self.ready.done() and bool(self._pending), self._messages, self._answers, self._cpu
        )

    def kill(self) -> None:
        """Kills the process after it had time to dump its threads' stacks; `read` then returns."""
        if DUMP_SIGNAL is not None:
            self._process.send_signal(DUMP_SIGNAL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_DUMP_TIME)
        self._process.kill()

    def fail(self, error: EngineDied) -> None:
        """Fails all pending and all later calls with this error."""
        with self._lock:
            self._died = error
            pending, self._pending = self._pending, {}
        for call in pending.values():
            _settle(call.future.set_exception, EngineDied(*error.args))

    def close(self) -> None:
        """Ends the process; `read` then returns."""
        self._outgoing.put(None)
        if not self.ready.done():  # it does not read yet, and holds no state
            self._process.kill()
        try:
            self._process.wait(_CLOSING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(
        self, message: Callable[[int], object], on_token: OnToken | None
    ) -> tuple[int, Future[Any]]:
        number, future = next(self._numbers), Future[Any]()
        frame = frames.pack(message(number))
        with self._lock:
            if self._died:
                raise EngineDied(*self._died.args)
            self._pending[number] = _Pending(future, on_token)
        self._outgoing.put(frame)
        return number, future

    def _pop_pending(self, number: int) -> _Pending | None:
        with self._lock:
            return self._pending.pop(number, None)

    def _dispatch(
        self, message: Heartbeat | Ready | TokenSampled | CallResult | CallFailure
    ) -> None:
        self._messages += 1
        self._answers += not isinstance(message, Heartbeat)
        match message:
            case Heartbeat(cpu):
                self._cpu = cpu
            case TokenSampled(number, token, logprob):
                call = self._pending.get(number)
                if call and call.on_token:
                    call.on_token(token, logprob)
            case Ready(runs_on):
                self._settle(0, runs_on)
            case CallResult(number, value):
                self._settle(number, value)
            case CallFailure(number, raised):
                if call := self._pop_pending(number):
                    _settle(
                        call.future.set_exception,
                        raised.error() if number else startup_error(raised),
                    )

    def _settle(self, number: int, value: Any) -> None:
        if call := self._pop_pending(number):
            _settle(call.future.set_result, value)

    def _write(self) -> None:
        assert self._process.stdin
        # an OSError means that the process has exited, which the reader notices
        with suppress(OSError), self._process.stdin as outgoing:
            while (frame := self._outgoing.get()) is not None:
                frames.write(outgoing, frame)


def _settle(how: Callable[[Any], None], what: Any) -> None:
    with suppress(InvalidStateError):  # cancelled in the meantime
        how(what)


def _spawn() -> subprocess.Popen[bytes]:
    """Starts the process by subprocess: multiprocessing would run the user's script again."""
    # so that it imports from the same places as this process
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    command = [sys.executable, "-P", "-m", "tinkex_server.engine.process.worker"]
    environment = {**_with_short_spin(os.environ), "PYTHONPATH": path}
    with _interrupts_blocked():
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=1 << 16
        )


def _with_short_spin(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment with a bound on how long OpenMP's threads spin while they wait for
    each other, unless it already says how they wait.

    Without a bound they go on for milliseconds after each computation, and take cores from the
    server and its clients. Within a computation, the engine does without spinning when others want
    the cores.
    """
    said = any(name in environment for name in ("OMP_WAIT_POLICY", *_SHORT_SPIN))
    return dict(environment) if said else {**environment, **_SHORT_SPIN}


@contextmanager
def _interrupts_blocked() -> Generator[None]:
    """Blocks SIGINT in this thread, and in a process that is started meanwhile.

    A terminal sends Ctrl-C to both processes. The child leaves it to the server, but would end with
    a traceback if it came before the child could say so.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
