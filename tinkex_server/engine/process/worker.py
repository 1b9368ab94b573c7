"""The main module of the engine process, `python -m tinkex_server.engine.process.worker`, which
talks to the server over standard input and output.

It exits when its input ends: the server has closed it, or has died.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tinkex_server.engine.interface import Engine, OnToken, SampleResult
from tinkex_server.engine.process import frames
from tinkex_server.engine.process.heartbeat import start_heartbeat
from tinkex_server.engine.process.messages import (
    Call,
    CallFailure,
    CallResult,
    Cancel,
    EngineFactory,
    Ready,
    StartSample,
    TokenSampled,
)
from tinkex_server.engine.remote_errors import RemoteError


class Worker:
    """A dispatcher that carries out many calls at once and replies to each."""

    def __init__(self, engine: Engine, send: Callable[[object], None]) -> None:
        self._engine = engine
        self._send = send
        self._samples: dict[int, Future[SampleResult]] = {}
        self._pool = ThreadPoolExecutor(thread_name_prefix="tinkex-engine")

    def handle(self, message: Call | StartSample | Cancel) -> None:
        """Handles one message without blocking."""
        match message:
            case Call():
                self._pool.submit(self._call, message)
            case StartSample():
                self._sample(message)
            case Cancel(number):
                if sample := self._samples.get(number):
                    sample.cancel()

    def _call(self, call: Call) -> None:
        self._send(
            call_outcome(
                call.number, lambda: getattr(self._engine, call.method)(*call.args, **call.kwargs)
            )
        )

    def _sample(self, asked: StartSample) -> None:
        try:
            sample = self._engine.sample(
                asked.sampler_id,
                asked.spec,
                self._token_sender(asked.number) if asked.streamed else None,
            )
        except Exception as error:  # noqa: BLE001  handed on to whoever asked
            self._send(CallFailure(asked.number, RemoteError.of(error)))
            return
        self._samples[asked.number] = sample
        sample.add_done_callback(lambda ended: self._end(asked.number, ended))

    def _token_sender(self, number: int) -> OnToken:
        return lambda token, logprob: self._send(TokenSampled(number, token, logprob))

    def _end(self, number: int, sample: Future[SampleResult]) -> None:
        self._samples.pop(number, None)
        if not sample.cancelled():
            self._send(call_outcome(number, sample.result))


def call_outcome(number: int, work: Callable[[], Any]) -> CallResult | CallFailure:
    try:
        return CallResult(number, work())
    except Exception as error:  # noqa: BLE001  handed on to whoever asked
        return CallFailure(number, RemoteError.of(error))


def message_sender(file: IO[bytes]) -> Callable[[object], None]:
    """Returns a function that sends one message at a time, from any thread."""
    lock = threading.Lock()

    def send(message: object) -> None:
        frame = frames.pack(message)
        # the server has died; this process exits at its next read
        with lock, suppress(BrokenPipeError):
            frames.write(file, frame)

    return send


def main() -> None:
    """Runs the process; never returns."""
    # Ctrl-C is handled by the server, which then closes this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prefer_as_oom_victim()
    incoming, outgoing = _take_over_pipes()
    try:
        _work(incoming, message_sender(outgoing))
    except EOFError:
        os._exit(0)  # at once, since nobody waits for a reply
    except BaseException:  # noqa: BLE001  ends the process, whatever threads it has
        traceback.print_exc()
        os._exit(1)


def _work(incoming: IO[bytes], send: Callable[[object], None]) -> None:
    """Serves calls; ends by an exception only."""
    factory: EngineFactory = frames.read(incoming)
    try:
        engine, runs_on = _create_engine(factory)
    except Exception as error:  # noqa: BLE001  handed on to whoever asked
        send(CallFailure(0, RemoteError.of(error)))
        os._exit(1)
    send(Ready(runs_on))
    start_heartbeat(send)
    worker = Worker(engine, send)
    while True:
        worker.handle(frames.read(incoming))


def _create_engine(factory: EngineFactory) -> tuple[Engine, str]:
    """Returns the engine and what it runs on.

    Garbage collection is off meanwhile: it would take a sixth of the import time, and find nothing,
    since imported modules stay.
    """
    gc.disable()
    engine = factory()
    runs_on = engine.ready.result()
    gc.freeze()
    gc.enable()
    return engine, runs_on


def _take_over_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Returns the standard input and output as private pipes; afterwards standard input is empty
    and standard output goes to standard error, so that libraries may print.
    """
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return incoming, outgoing


def _prefer_as_oom_victim() -> None:
    """Makes Linux, when out of memory, kill this process rather than the server, which can restart
    it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    main()
