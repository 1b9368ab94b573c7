"""Engine processes that are forked from one which has imported what an engine needs, so that they
start in milliseconds: to import torch and transformers takes seconds. Those of servers in processes
of their own are too, by `at_start/sitecustomize.py`.

The product starts a new interpreter for each engine. A fork is safe only in a process that has one
thread and has not touched a GPU, and the forked process would hold its memory for as long as the
server runs. `tests/server/engine/test_process_engine.py` tests engines as the product starts them.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from attrs import asdict, define, field, frozen

from tests.support.programs import SECONDS
from tinkex_server.engine.process.child import _with_short_spin

ROOT = Path(__file__).resolve().parents[2]


@frozen
class Request:
    """A request for a fork that becomes an engine process, or runs a program."""

    folder: str
    environment: Mapping[str, str]
    program: str | None = None
    arguments: Sequence[str] = ()


@define
class Fork:
    """A forked process, with those methods of `subprocess.Popen` that `Child` uses."""

    pid: int
    _exit_code: IO[bytes]
    """A pipe that holds the exit code once the process has ended."""
    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None
    _code: int | None = None
    _lock: threading.Lock = field(factory=threading.Lock)

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code. Raises `subprocess.TimeoutExpired`."""
        with self._lock:
            if self._code is None:
                if not select.select([self._exit_code], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(f"the fork {self.pid}", timeout or 0.0)
                with self._exit_code as ended:
                    # nothing: the process that reports the ends has ended, as the tests have
                    self._code = int(ended.read() or 0)
            return self._code

    def send_signal(self, number: int) -> None:
        try:
            self.wait(0)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """A connection to the process that engine processes are forked from; Linux alone has what it
    needs.

    The workers of one run share the process, whose imports take seconds: the first that needs it
    starts it. It listens at `place`, and ends when all connections are closed.
    """

    def __init__(self, place: Path) -> None:
        self._lock = threading.Lock()
        self._requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        with locked(place):
            try:
                self._requests.connect(str(place))
            except (FileNotFoundError, ConnectionRefusedError):
                place.unlink(missing_ok=True)  # of a process that was killed
                self._process = _start_forking_process(place)
                self._requests.connect(str(place))

    def close(self) -> None:
        """Closes the connection. The worker that started the process waits for its end, which is
        when the other workers have closed theirs. Forks that still run are killed.
        """
        self._requests.close()
        if self._process is not None:
            self._process.wait()

    def start_engine(self) -> Fork:
        """Starts an engine process."""
        stdin, outgoing = os.pipe()
        incoming, stdout = os.pipe()
        fork = self._fork(Request(str(Path.cwd()), dict(os.environ)), [stdin, stdout, 2])
        os.close(stdin)
        os.close(stdout)
        fork.stdin = os.fdopen(outgoing, "wb", 1 << 16)
        fork.stdout = os.fdopen(incoming, "rb", 1 << 16)
        return fork

    def output_of(self, program: str, *arguments: str, **variables: str) -> str:
        """Runs a program in a fork, and returns what it printed.

        Raises `AssertionError` with its error where it fails.
        """
        request = Request(str(Path.cwd()), {**os.environ, **variables}, program, arguments)
        with (
            Path(os.devnull).open("rb") as nothing,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            fork = self._fork(request, [nothing.fileno(), out.fileno(), err.fileno()])
            code = fork.wait(SECONDS)
            out.seek(0)
            err.seek(0)
            assert code == 0, err.read().decode()
            return out.read().decode()

    def _fork(self, request: Request, standard: Sequence[int]) -> Fork:
        exit_code, theirs = os.pipe()
        with self._lock:
            message = json.dumps(asdict(request)).encode()
            socket.send_fds(self._requests, [message], [*standard, theirs])
            pid = int(self._requests.recv(16))
        os.close(theirs)
        return Fork(pid, os.fdopen(exit_code, "rb", 0))


def _start_forking_process(place: Path) -> subprocess.Popen[bytes]:
    """Starts the process, whose socket accepts connections at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(place))
        listener.listen()
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking_process", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            cwd=ROOT,
            # numpy's algebra would start threads; an engine has no use for them
            env={**_with_short_spin(os.environ), "OPENBLAS_NUM_THREADS": "1"},
        )


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Lets one process at a time begin or end to listen at a place."""
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
