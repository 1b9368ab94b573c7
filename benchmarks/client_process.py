"""Runs one task of a client in a process of its own: ours, the official SDK, or the floor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from benchmarks.workload import SAMPLES
from scripts.official_sdk import COMPILED, ROOT, ended_well, python_with

OFFICIAL = "0.38.0"
_TIMEOUT = 400
"""Seconds for one process: a client that does not fit the server hangs rather than fails."""
_CLIENT = Path(__file__).with_name("client.py")


@frozen
class Task:
    """One thing to measure; `client.py` and `floor.py` know it by its name."""

    title: str
    name: str
    encoding: str = "protobuf"
    """The part of the prepared server that is asked."""
    count: int = SAMPLES
    rounds: int = 3
    official: bool = True
    """Whether the official SDK can do it: it speaks no JSON of batches and samples since 0.25."""
    floor: bool = False
    """Whether `floor.py` does it too."""


def measure(sdk: str, task: Task, url: str) -> dict[str, float]:
    """Returns the figures of one round: seconds, and bytes of memory."""
    ran = subprocess.run(
        [*_command(sdk), task.name, f"{url}/{task.encoding}", str(task.count)],
        timeout=_TIMEOUT,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **COMPILED},  # as installed packages are
    )
    if not ended_well(sdk, ran.returncode):
        ran.check_returncode()
    return json.loads(ran.stdout)


def _command(sdk: str) -> Sequence[str | Path]:
    if sdk == "floor":
        return [sys.executable, "-m", "benchmarks.floor"]
    python = sys.executable if sdk == "tinkex" else python_with(OFFICIAL, alone=True)
    return [python, _CLIENT, sdk]
