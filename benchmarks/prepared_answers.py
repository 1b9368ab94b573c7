"""Starts the server of prepared answers in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

from scripts.official_sdk import ROOT


@contextmanager
def server() -> Generator[str]:
    """Yields the URL of a server that answers at once, see benchmarks/server.py."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
