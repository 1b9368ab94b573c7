"""`LocalConnection`: the way to this process's embedded server, for `base_url="local"`."""

from __future__ import annotations

import httpx

from tinkex.config import LOCAL
from tinkex.local.process_server import local_url
from tinkex.threads import in_thread

_PLACEHOLDER = f"{LOCAL}/"


class LocalConnection(httpx.AsyncBaseTransport):
    """A connection that starts the embedded server of this process at its first request.

    In the URL of a request it replaces "local" by the server's address, and passes the request on.
    """

    def __init__(self, connection: httpx.AsyncBaseTransport) -> None:
        self._connection = connection
        self.base_url = LOCAL
        """The server's address, once the first request was sent."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request to the embedded server. Raises `ConfigError` when that cannot start."""
        url = str(request.url)
        if url.startswith(_PLACEHOLDER):
            # in a thread, since a start takes seconds
            self.base_url = await in_thread(local_url)
            request.url = httpx.URL(f"{self.base_url}/{url.removeprefix(_PLACEHOLDER)}")
        if request.headers.get("Host") == "":  # as it follows from "local", also after the start
            request.headers["Host"] = request.url.netloc.decode("ascii")
        return await self._connection.handle_async_request(request)
