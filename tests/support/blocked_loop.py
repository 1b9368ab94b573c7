"""A function that blocks the event loop."""

from __future__ import annotations

import time


def hold_up_the_loop(seconds: float) -> None:
    """Blocks the event loop, as a reward function does that is not asynchronous."""
    time.sleep(seconds)  # the line that is to be found
