"""The event loop that the server runs on: uvloop's where there is one, which is faster at reading
and writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib import import_module
from importlib.util import find_spec


def run_on_fast_loop(work: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """There is no uvloop for Windows."""
    return import_module("uvloop").new_event_loop if find_spec("uvloop") else asyncio.new_event_loop
