"""Resolves host names, even on the event loop of a thread that outlives the main thread."""

from __future__ import annotations

import socket
from typing import Any, cast

from aiohttp.resolver import ThreadedResolver

from tinkex.threads import in_thread


class _Lookups:
    """The two lookup methods of an event loop, in threads that start even at exit."""

    async def getaddrinfo(self, host: str, port: int, *, family: int, type: int, flags: int) -> Any:
        return await in_thread(socket.getaddrinfo, host, port, family, type, 0, flags)

    async def getnameinfo(self, address: Any, flags: int) -> Any:
        return await in_thread(socket.getnameinfo, address, flags)


def resolver() -> ThreadedResolver:
    """Returns aiohttp's resolver without the loop's thread pool, which accepts no work once the
    main thread has ended.
    """
    return ThreadedResolver(cast(Any, _Lookups()))
