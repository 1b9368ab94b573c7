"""`live_regions`: sends the parts of a page again whenever they change, as server-sent events.

The server renders each part by the same template as in the page, so a browser only has to put it in
the place of the old one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeAlias

from tinkex_server.state import CommonState
from tinkex_server.wire.events import server_sent_event

MEDIA_TYPE = "text/event-stream"
_PERIOD = 1.0
"""The seconds between two looks for changes."""
_RENEWED_AFTER = 5.0
"""The seconds after which a page is rendered again though nothing was written: it tells ages, and
which clients have fallen silent.
"""
_RECONNECT_MS = 2000

Render: TypeAlias = Callable[[], Awaitable[Mapping[str, str] | None]]
"""A function that returns the HTML of each region, or None if the caller may no longer see it."""


async def live_regions(state: CommonState, render: Render) -> AsyncGenerator[bytes, None]:
    """Yields the events of one page: all regions at first, and then those that have changed.

    It ends when the server stops, or when the caller is no longer logged in.
    """
    yield f"retry: {_RECONNECT_MS}\n\n".encode()
    sent: dict[str, str] = {}
    seen, rendered_at = None, 0.0
    while True:
        mark = state.store.changes, state.refusals.changes, state.futures.activity
        if mark != seen or time.monotonic() > rendered_at + _RENEWED_AFTER:
            seen, rendered_at = mark, time.monotonic()
            regions = await render()
            if regions is None:
                yield b"event: gone\ndata: {}\n\n"
                return
            changed = {name: html for name, html in regions.items() if sent.get(name) != html}
            sent.update(changed)
            yield server_sent_event(changed) if changed else b": nothing new\n\n"
        if await state.futures.stopping_within(_PERIOD):
            return
