"""`ConnectionPool`: the client's own HTTP connections, which are used again where that is safe."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from functools import lru_cache
from socket import socket
from weakref import finalize

from attrs import define, field, frozen

from tinkex.config import HttpLimits
from tinkex.config.proxies import Proxies
from tinkex.threads import call_on_loop
from tinkex.transport import certificates
from tinkex.transport.connecting import Connector, Origin
from tinkex.transport.http_connection import HttpConnection
from tinkex.transport.lifetimes import start_task
from tinkex.transport.port import Answer, ExchangeFailed, Message
from tinkex.transport.urls import split_url

_CLOSING = 1.0  # seconds for connections to end their TLS sessions


@frozen(eq=False)
class _Place:
    """The server that a URL names, and the request to it."""

    origin: Origin
    target: str
    """The target of the request line."""
    host: str
    """The header Host."""
    more_headers: Mapping[str, str]
    """The headers for a proxy that sees the request itself."""


class ConnectionPool:
    """A pool of connections, for one event loop. It is the client's own `Connections`.

    Args:
        limits: bounds on connections; by default those of `HttpLimits`.
        proxies: the proxies by URL; by default none.
        proxy_headers: headers for the proxies alone.
        environment: the variables that may name certificates to trust.
        connect_timeout: seconds to open a connection.
    """

    def __init__(
        self,
        limits: HttpLimits | None = None,
        *,
        proxies: Proxies | None = None,
        proxy_headers: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        connect_timeout: float = 10.0,
    ) -> None:
        self._limits = limits or HttpLimits()
        self._proxies = proxies or Proxies()
        self._connect_timeout = connect_timeout
        named = certificates.read_variables(environment or {})
        self._connector = Connector(
            lambda: certificates.tls_context(named),
            certificates.describe(environment or {}),
            dict(proxy_headers or {}),
        )
        self._origins: dict[Origin, Origin] = {}
        self._place = lru_cache(maxsize=256)(self._place_of)
        self._open: _OpenConnections | None = None
        self._closer: AsyncGenerator[None] | None = None

    async def exchange(self, message: Message) -> Answer:
        """Sends a message once, and returns the answer. Raises `ExchangeFailed` without one.

        The body is read if it is complete, or small and not compressed, unless `Message.streamed`
        is set.
        """
        place = self._place(message.url)
        open_ = self._open or await self._begin()
        try:
            connection = open_.idle(place.origin) or await self._connection(
                open_, place.origin, message.timeout
            )
            answer = await connection.exchange(
                message, place.target, place.host, place.more_headers
            )
        except ExchangeFailed as failed:
            failed.proxy = place.origin.proxy
            raise
        answer.url, answer.proxy = message.url, place.origin.proxy
        return answer

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._closer is not None:
            await self._closer.aclose()

    async def abandon(self) -> None:
        """Closes the connections when their event loop has ended."""
        if self._open is not None:
            self._open.abandon()

    async def _begin(self) -> _OpenConnections:
        """Arranges that the connections are closed with the loop or the pool, whichever ends
        first.
        """
        loop = asyncio.get_running_loop()
        made = self._open = _OpenConnections(loop, self._limits)
        self._closer = _close_at_end(made)
        await anext(self._closer)
        finalize(self, _schedule_close, loop, self._closer).atexit = False
        return made

    async def _connection(
        self, open_: _OpenConnections, origin: Origin, timeout: float
    ) -> HttpConnection:
        """Opens a connection, once the limit allows it."""
        if (connection := await open_.admit(origin, timeout)) is not None:
            return connection
        time = asyncio.timeout(self._connect_timeout)
        try:
            async with time:
                connection, sock = await self._connector.connect(origin, open_.new_connection)
        except BaseException as error:
            open_.withdraw()
            if isinstance(error, TimeoutError) and time.expired():
                raise ExchangeFailed(
                    f"no connection within {self._connect_timeout:g} s", "connecting", late=True
                ) from None
            raise
        open_.add(connection, origin, sock)
        return connection

    def _place_of(self, url: str) -> _Place:
        parts = split_url(url)
        proxy = self._proxies.of(f"{parts.scheme}://{parts.netloc}") if self._proxies else None
        origin = Origin(parts.scheme, parts.host, parts.port, proxy)
        origin = self._origins.setdefault(origin, origin)  # so that lookups need not compare them
        if proxy is None or origin.is_secure:
            return _Place(origin, parts.target, parts.netloc, {})
        return _Place(
            origin,
            f"{parts.scheme}://{parts.netloc}{parts.target}",
            parts.netloc,
            self._connector.headers_for_proxy(proxy),
        )


@define(eq=False)
class _OpenConnections:
    """The open connections of a pool. They do not keep the pool alive."""

    loop: asyncio.AbstractEventLoop
    limits: HttpLimits
    _origins: dict[HttpConnection, tuple[Origin, socket]] = field(
        factory=dict[HttpConnection, tuple[Origin, socket]]
    )
    """All connections, and their sockets."""
    _idle: defaultdict[Origin, list[HttpConnection]] = field(
        factory=lambda: defaultdict[Origin, list[HttpConnection]](list)
    )
    """The idle connections. The one that was used last is used next."""
    _queues: defaultdict[Origin, deque[asyncio.Future[HttpConnection | None]]] = field(
        factory=lambda: defaultdict[Origin, deque[asyncio.Future[HttpConnection | None]]](deque)
    )
    """The exchanges that wait for a connection. None tells one to look whether it may open one."""
    _opening: int = 0
    """The number of connections that are being opened."""
    _sweep: asyncio.TimerHandle | None = None
    _closed: bool = False
    _all_lost: asyncio.Event = field(factory=asyncio.Event)

    def idle(self, origin: Origin) -> HttpConnection | None:
        """Returns an idle connection to a server; None if there is none."""
        idle = self._idle[origin]
        if not idle:
            return None
        oldest = self.loop.time() - self.limits.keepalive
        while idle:
            connection = idle.pop()
            if connection.is_usable and connection.idle_since >= oldest:
                return connection
            connection.close()
        return None

    async def admit(self, origin: Origin, timeout: float) -> HttpConnection | None:
        """Counts a connection that the caller may open. Returns a connection instead if one becomes
        idle before the limit allows another.
        """
        if self._closed:
            raise ExchangeFailed("the client is closed", "connecting")
        most = self.limits.max_connections
        if most is not None:
            ends = self.loop.time() + timeout
            while len(self._origins) + self._opening >= most and not self._close_other(origin):
                if (left := ends - self.loop.time()) <= 0:
                    raise ExchangeFailed(
                        f"all {most} connections were busy for {timeout:g} s",
                        "connecting",
                        late=True,
                    )
                if connection := await self._next_idle(origin, left):
                    return connection
        self._opening += 1
        return None

    def new_connection(self) -> HttpConnection:
        return HttpConnection(self.loop, self._on_done, self._on_lost)

    def add(self, connection: HttpConnection, origin: Origin, sock: socket) -> None:
        """Adds a connection that was counted by `admit`."""
        self._opening -= 1
        if connection.is_usable:
            self._all_lost.clear()
            self._origins[connection] = origin, sock
        if self._closed:
            connection.abort()

    def withdraw(self) -> None:
        """Takes back what `admit` has counted."""
        self._opening -= 1
        self._wake_any()

    async def aclose(self) -> None:
        """Closes all connections. Exchanges that are not over fail."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        if not self._origins:
            return
        for connection in list(self._origins):
            connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await self._all_lost.wait()
        for connection in list(self._origins):
            connection.abort()

    def abandon(self) -> None:
        """Closes the sockets, since the event loop of their connections has ended."""
        self._closed = True
        for _, sock in self._origins.values():
            sock.close()

    async def _next_idle(self, origin: Origin, seconds: float) -> HttpConnection | None:
        """Waits in the queue for a connection. Returns None when it may be time to open one."""
        queue, given = self._queues[origin], self.loop.create_future()
        queue.append(given)
        timer = self.loop.call_later(seconds, _give, given, None)
        try:
            return await given
        except BaseException:
            if given in queue:
                queue.remove(given)
            elif given.done() and not given.cancelled() and (connection := given.result()):
                self._put(connection, origin)
            raise
        finally:
            timer.cancel()

    def _close_other(self, origin: Origin) -> bool:
        """Closes an idle connection to another server. Returns whether there was one."""
        for other, idle in self._idle.items():
            if other is not origin and idle:
                connection = idle.pop(0)
                self._origins.pop(connection, None)
                connection.close()
                return True
        return False

    def _on_done(self, connection: HttpConnection) -> None:
        origin, _ = self._origins.get(connection, (None, None))
        if origin is None or self._closed or not connection.is_usable:
            connection.close()
        else:
            self._put(connection, origin)

    def _put(self, connection: HttpConnection, origin: Origin) -> None:
        """Gives a connection to the exchange that has waited longest for one, or keeps it idle."""
        queue = self._queues[origin]
        while queue:
            if _give(queue.popleft(), connection):
                return
        connection.idle_since = self.loop.time()
        self._idle[origin].append(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(self.limits.keepalive, self._close_old)
        self._wake_any()

    def _on_lost(self, connection: HttpConnection) -> None:
        origin, _ = self._origins.pop(connection, (None, None))
        if origin is not None and connection in self._idle[origin]:
            self._idle[origin].remove(connection)
        if not self._origins:
            self._all_lost.set()
        self._wake_any()

    def _wake_any(self) -> None:
        """Lets an exchange look whether it may open a connection, where their number is limited."""
        if self.limits.max_connections is not None:
            for queue in self._queues.values():
                while queue:
                    if _give(queue.popleft(), None):
                        return

    def _close_old(self) -> None:
        """Closes the connections that nobody has used for long."""
        self._sweep, oldest = None, self.loop.time() - self.limits.keepalive
        left = 0
        for idle in list(self._idle.values()):
            for connection in [one for one in idle if one.idle_since <= oldest]:
                idle.remove(connection)
                connection.close()
            left += len(idle)
        if left:
            self._sweep = self.loop.call_later(self.limits.keepalive, self._close_old)


def _give(future: asyncio.Future[HttpConnection | None], connection: HttpConnection | None) -> bool:
    """Ends a wait in the queue, unless it has ended. Returns whether it was still awaited."""
    if future.done():
        return False
    future.set_result(connection)
    return True


async def _close_at_end(connections: _OpenConnections) -> AsyncGenerator[None]:
    """Closes the connections when the generator is closed; the event loop does that at its end."""
    try:
        yield
    finally:
        await connections.aclose()


def _schedule_close(loop: asyncio.AbstractEventLoop, closer: AsyncGenerator[None]) -> None:
    """Closes the generator on its event loop, which does so itself at its end. May be called in any
    thread.
    """
    call_on_loop(loop, start_task, loop, closer.aclose)
