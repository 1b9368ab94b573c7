"""The start of a server beside a program that takes the place of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tinkex.errors import ConfigError


def start(models: Sequence[str]) -> str:
    """Starts an embedded server in a process of its own, and returns its base URL.

    The server ends when this process does, and those that share its open files. What takes the
    place of this process by `exec` counts as this process.

    Args:
        models: the models to serve, as `tinkex serve --model` takes them.

    Raises:
        ConfigError: the server could not be started.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tinkex.local.companion", *models],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C reaches the program alone
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout as output:
        line = output.readline()
    said: dict[str, str] = json.loads(line) if line else {}
    if sys.platform != "win32":
        process.wait()  # the server runs on in a process that this one forked
    if "base_url" not in said:
        process.stdin.close()
        raise ConfigError(
            f"the embedded server could not be started: {said.get('error', 'it ended at once')}",
            advice="Or give the URL of a running server; `tinkex serve` prints it.",
        )
    _keep_open(process.stdin.fileno())
    return said["base_url"]


def _keep_open(descriptor: int) -> None:
    """Keeps the server's standard input open as long as this process lives, also when another
    program takes its place.
    """
    os.set_inheritable(os.dup(descriptor), True)
