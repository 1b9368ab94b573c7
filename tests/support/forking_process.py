"""The process that engine processes are forked from, `python -m tests.support.forking_process FD`.
It imports what an engine needs, and starts no thread.

It reads requests from the socket FD, with the descriptors that the fork gets: its standard input,
output and error, and a pipe that the fork's exit code is written to. It answers with the fork's
process id, and ends when the socket is closed. The forks end when their input does.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from attrs import define, field, frozen

from tinkex_server.engine.process import worker
from tinkex_server.engine.torch.lean_imports import import_lean

TINY = Path(__file__).resolve().parents[2] / "tinkex" / "tiny"


@frozen
class Request:
    """A request for a fork that becomes an engine process, or runs a program."""

    folder: str
    environment: Mapping[str, str]
    program: str | None = None
    arguments: Sequence[str] = ()


@define
class ForkingProcess:
    """A loop that forks on request and reports the ends of the forks."""

    _requests: socket.socket
    _selector: selectors.BaseSelector = field(factory=selectors.DefaultSelector)

    def run(self) -> None:
        """Serves requests until the socket is closed."""
        self._selector.register(self._requests, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._report_end(key.fd, *key.data)
                elif not self._serve():
                    return

    def _serve(self) -> bool:
        """Serves one request; returns whether there was one."""
        message, descriptors, _, _ = socket.recv_fds(self._requests, 1 << 20, 4)
        if not message:
            return False
        *standard, exit_code = descriptors
        pid = os.fork()
        if pid == 0:
            self._close_all(exit_code)
            _become(pickle.loads(message), standard)
        for descriptor in standard:
            os.close(descriptor)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, exit_code))
        self._requests.send(str(pid).encode())
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
    """Runs the process until its socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the tests, whose end ends this
    _import_engine()
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, f"{len(threads)} threads: those of libraries do not survive a fork"
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        ForkingProcess(requests).run()


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
