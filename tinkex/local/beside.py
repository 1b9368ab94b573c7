"""The start of a server beside a program that takes the place of this process."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tinkex.errors import ConfigError

START_SECONDS = 120.0
"""The seconds that a start may take. It takes one or two, and more on a busy machine or when a hub
is asked for the configuration of a model.
"""


def start(
    models: Sequence[str], *, data_dir: Path | None = None, within: float = START_SECONDS
) -> str:
    """Starts an embedded server in a process of its own, and returns its base URL.

    The server ends when this process does, and those that share its open files. What takes the
    place of this process by `exec` counts as this process.

    Args:
        models: the models to serve, as `tinkex serve --model` takes them.
        data_dir: the folder of its database and checkpoints; by default a temporary one, which is
            removed when the server ends.
        within: the seconds that the server has to start; after them it is ended.

    Raises:
        ConfigError: the server could not be started, or not in time.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tinkex.local.companion", str(data_dir or ""), *models],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C reaches the program alone
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = _announced(process.stdout, within)
    except ConfigError:
        process.stdin.close()
        _end(process)
        raise
    if sys.platform != "win32":
        process.wait()  # the server runs on in a process that this one forked
    _keep_open(process.stdin.fileno())
    return url


def _announced(output: IO[bytes], within: float) -> str:
    """Returns the URL that the server prints. Raises `ConfigError` if it prints an error, ends, or
    does neither in time.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(output, lines), daemon=True).start()
    deadline, doing = time.monotonic() + within, "starting Python"
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise _not_started(f"after {within:g} s it was still {doing}") from None
        said: dict[str, str] = json.loads(line) if line else {}
        if "base_url" in said:
            return said["base_url"]
        if "doing" not in said:
            raise _not_started(said.get("error", f"it ended while {doing}"))
        doing = said["doing"]


def _read(output: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Passes on the lines of the server's output, and at its end an empty one."""
    with output:
        for line in output:
            lines.put(line)
    lines.put(b"")


def _not_started(reason: str) -> ConfigError:
    return ConfigError(
        f"the embedded server could not be started: {reason}",
        advice="Or give the URL of a running server; `tinkex serve` prints it.",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server that did not start, with the processes that it started: they are the group of
    its first process, whose id is not given to another before it was waited for.
    """
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):  # all have ended by themselves
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _keep_open(descriptor: int) -> None:
    """Keeps the server's standard input open as long as this process lives, also when another
    program takes its place.
    """
    os.set_inheritable(os.dup(descriptor), True)
