"""Engine processes that are forked from one which has imported what an engine needs, so that they
start in milliseconds: to import torch and transformers takes seconds.

The product starts a new interpreter for each engine. A fork is safe only in a process that has one
thread and has not touched a GPU, and the forked process would hold its memory for as long as the
server runs. `tests/server/engine/test_process_engine.py` tests engines as the product starts them.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from attrs import define, field

from tests.support.forking_process import Request
from tests.support.programs import SECONDS
from tinkex_server.engine.process.child import _with_short_spin

ROOT = Path(__file__).resolve().parents[2]


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
    """The process that engine processes are forked from; Linux alone has what it needs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forking_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                # numpy's algebra would start threads; an engine has no use for them
                env={**_with_short_spin(os.environ), "OPENBLAS_NUM_THREADS": "1"},
            )

    def close(self) -> None:
        """Ends the process. Its forks end when their input does."""
        self._requests.close()
        self._process.wait(SECONDS)

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
            socket.send_fds(self._requests, [pickle.dumps(request)], [*standard, theirs])
            pid = int(self._requests.recv(16))
        os.close(theirs)
        return Fork(pid, os.fdopen(exit_code, "rb", 0))
