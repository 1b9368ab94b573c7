"""The process that engine processes are forked from, `python -m tests.support.forking_process FD`.
It imports what an engine needs, and starts no thread.

It accepts connections at the socket FD, and reads requests from them, with the descriptors that the
fork gets: its standard input, output and error, and a pipe that the fork's exit code is written to.
It answers with the fork's process id. It kills the forks of a connection that is closed, and ends
when all are.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from attrs import define, field

from tests.support.engine_forks import Request, locked
from tinkex_server.engine.process import worker
from tinkex_server.engine.torch.lean_imports import import_lean

TINY = Path(__file__).resolve().parents[2] / "tinkex" / "tiny"


@define
class ForkingProcess:
    """A loop that forks on request and reports the ends of the forks."""

    _listener: socket.socket
    _selector: selectors.BaseSelector = field(factory=selectors.DefaultSelector)
    _forks: dict[socket.socket, set[int]] = field(factory=dict[socket.socket, set[int]])
    """The process ids of the forks that run, by the connection that asked for them."""

    def run(self) -> None:
        """Serves requests until all connections are closed."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._report_end(key.fd, *key.data)
                elif key.fileobj is self._listener:
                    self._accept()
                elif not self._serve(cast("socket.socket", key.fileobj)) and self._is_done():
                    return

    def _accept(self) -> bool:
        """Accepts a connection; returns whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return False
        connection.setblocking(True)
        self._forks[connection] = set()
        self._selector.register(connection, selectors.EVENT_READ)
        return True

    def _is_done(self) -> bool:
        """Returns whether no connection is left; the place is then free for another process."""
        if self._forks:
            return False
        place = Path(self._listener.getsockname())
        with locked(place):
            if self._accept():
                return False
            place.unlink()
            return True

    def _serve(self, requests: socket.socket) -> bool:
        """Serves one request; returns whether there was one. If not, closes the connection."""
        try:
            message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        except ConnectionResetError:  # its process was killed
            message, descriptors = b"", []
        if not message:
            self._selector.unregister(requests)
            for pid in self._forks.pop(requests):
                os.kill(pid, signal.SIGKILL)
            requests.close()
            return False
        *standard, exit_code = descriptors
        pid = os.fork()
        if pid == 0:
            self._close_all(exit_code)
            _become(Request(**json.loads(message)), standard)
        for descriptor in standard:
            os.close(descriptor)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, exit_code))
        self._forks[requests].add(pid)
        with suppress(BrokenPipeError, ConnectionResetError):  # likewise
            requests.send(str(pid).encode())
        return True

    def _close_all(self, exit_code: int) -> None:
        """Closes what the forks have no part in."""
        for key in self._selector.get_map().values():
            os.close(key.fd)
            if key.data is not None:
                os.close(key.data[1])
        self._selector.close()
        os.close(exit_code)

    def _report_end(self, ended: int, pid: int, exit_code: int) -> None:
        _, status = os.waitpid(pid, 0)
        for pids in self._forks.values():
            pids.discard(pid)
        with suppress(BrokenPipeError):  # who asked for it has been killed
            os.write(exit_code, str(os.waitstatus_to_exitcode(status)).encode())
        self._selector.unregister(ended)
        for descriptor in (ended, exit_code):
            os.close(descriptor)


def _become(request: Request, standard: Sequence[int]) -> NoReturn:
    """Makes this fork what was asked for."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    np.random.seed()
    if request.program is None:
        worker.main()
    _run(request.program or "", request.arguments)


def _run(program: str, arguments: Sequence[str]) -> NoReturn:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program, "<program>", "exec"), names)
    except BaseException:  # noqa: BLE001  ends the process, whatever threads it has
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Runs the process until nobody needs it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the tests, whose end ends this
    _import_engine()
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, f"{len(threads)} threads: those of libraries do not survive a fork"
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        ForkingProcess(listener).run()


def _import_engine() -> None:
    """Imports what the torch engine imports until it has loaded a model."""
    import_lean()
    importlib.import_module("tinkex_server.engine.torch.engine")
    transformers = importlib.import_module("transformers")
    transformers.AutoModelForCausalLM.from_pretrained(TINY)
    transformers.AutoTokenizer.from_pretrained(TINY)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
