"""The event loop that the server runs on: uvloop's, the faster one, where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib import import_module
from importlib.util import find_spec


def run_on_fast_loop(work: Coroutine[None, None, None]) -> None:
    """Runs a coroutine to its end on a new event loop."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    # uvloop does not exist for Windows
    return import_module("uvloop").new_event_loop if find_spec("uvloop") else asyncio.new_event_loop
