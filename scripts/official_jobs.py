"""`OfficialJobs`: whole jobs by the official SDK, each in a process of its own that need not import
it, for scripts/test_bridge.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, TimeoutError
from contextlib import suppress
from pathlib import Path
from typing import Self

from official_sdk import COMPILED, ROOT, python_with

_SERVER = ROOT / "tests" / "official" / "job_server.py"
_OURS = (ROOT, ROOT / "generated")


class OfficialJobs:
    """The jobs of one release of the official SDK. It is a context manager, which ends them."""

    def __init__(self, version: str) -> None:
        """Starts the process that the jobs are forked from, and the venv if it is not there."""
        self._folder = tempfile.TemporaryDirectory()
        self._statuses: dict[str, Future[int]] = {}  # by the path of the report
        self._lock = threading.Lock()
        self._server = subprocess.Popen(
            [python_with(version), _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **COMPILED, "PYTHONPATH": os.pathsep.join(map(str, _OURS))},
            text=True,
            start_new_session=True,  # so that all jobs can be ended together
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, url: str, without: Sequence[str], timeout: float) -> tuple[bool, str]:
        """Runs a job on the server at `url`, without these parts of it. Returns whether it ended
        well in time, and what it said.
        """
        assert self._server.stdin
        status: Future[int] = Future()
        with self._lock:
            report = Path(self._folder.name) / f"job-{len(self._statuses)}"
            self._statuses[str(report)] = status
            self._server.stdin.write(json.dumps([str(report), url, *without]) + "\n")
            self._server.stdin.flush()
        try:
            passed, said = status.result(timeout) == 0, ""
        except TimeoutError:
            passed, said = False, f"no end after {timeout} s\n"
        return passed, said + (report.read_text() if report.exists() else "")

    def _read(self) -> None:
        """Notes which jobs have ended. Those that are left when the process ends have failed."""
        assert self._server.stdout
        for line in self._server.stdout:
            report, status = line.split()
            self._statuses[report].set_result(int(status))
        for status in list(self._statuses.values()):
            if not status.done():
                status.set_result(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._reader.join()
        self._folder.cleanup()
