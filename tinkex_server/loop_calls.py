"""`call_on_loop`: passes what an engine reports on its own threads to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

Args = TypeVarTuple("Args")


def call_on_loop(
    loop: asyncio.AbstractEventLoop, function: Callable[[*Args], object], *args: *Args
) -> bool:
    """Has the loop call `function`; returns False if the loop is closed. To be used on any thread.

    The loop of a server that has stopped is closed, but its engine may still report: what was under
    way there ends, and an engine that the server does not own lives on.
    """
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True
