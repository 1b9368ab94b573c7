"""`JoinedWrites`: a transport that sends the head of an answer together with its body.

uvicorn writes them separately, which takes two system calls and two packets for each answer.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """A transport of asyncio whose writes are sent in pairs, and at the latest in the event loop's
    next iteration.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: bytes | None = None

    def write(self, data: bytes) -> None:
        """Sends the data with what was written before it, or holds it back until then."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            held, self._held = self._held, None
            self._transport.writelines((held, data))

    def close(self) -> None:
        """Closes the connection after everything written has been sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, None
        # uvloop refuses to write if the peer has closed the connection meanwhile
        if held is not None and not self._transport.is_closing():
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
