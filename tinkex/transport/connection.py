"""The connections: aiohttp behind httpx's interface, which also tell how far an exchange got."""

from __future__ import annotations

import aiohttp
import httpx
from aiohttp.connector import Connection
from httpx_aiohttp import AiohttpTransport

from tinkex.transport.progress import progress

# Below the 5 seconds after which common servers close an idle connection: a request sent on one that is just being
# closed dies unanswered, and for a training step that would mean an unknown outcome.
_KEEPALIVE_SECONDS = 4.0
_UNLIMITED = 0  # connections; what bounds them is the number of requests that a client has in flight


class Connections(AiohttpTransport):
    """A pool of connections, for one event loop."""

    def get_client(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=_UNLIMITED, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=self.ssl_context)
        return aiohttp.ClientSession(connector=connector, request_class=_Request, response_class=_Response)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        progress.get().place = "connecting"
        try:
            return await super().handle_async_request(request)
        except (aiohttp.ClientError, OSError) as error:  # those for which httpx-aiohttp has no other name
            raise httpx.NetworkError(str(error)) from error


class _Request(aiohttp.ClientRequest):
    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        transport = conn.transport
        progress.get().place = "unsent" if transport is None or transport.is_closing() else "unanswered"
        return await super().send(conn)


class _Response(aiohttp.ClientResponse):
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        response = await super().start(connection)
        progress.get().place = "answered"
        if self.status == 500 and protocol is not None:
            # some servers close the connection after a fault without saying so, and the next request on it would die
            protocol.force_close()
            if connection.protocol is None:  # a body that came with the headers: it is in the pool again
                protocol.close()
        return response
