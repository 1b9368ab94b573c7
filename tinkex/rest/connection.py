"""`AsyncConnection`: the base of the clients that have no session."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Self, TypeVar

from tinkex_api.types import Request

from tinkex.config import Config, configured
from tinkex.errors import ClientClosedError
from tinkex.transport.transport import Transport

T = TypeVar("T")


class AsyncConnection:
    """A connection to a server, without a session.

    Args:
        config: all settings.
        base_url, api_key: settings that take precedence over `config`.

    Raises:
        ConfigError: a setting is missing or wrong.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._transport = Transport(configured(config, base_url, api_key))
        self._shared = False
        self._closed = False

    @classmethod
    def over(cls, transport: Transport) -> Self:
        """Returns a client that uses the connections of another client, which closes them."""
        client = cls.__new__(cls)
        client._transport, client._shared, client._closed = transport, True, False
        return client

    async def close(self) -> None:
        """Closes the connections, unless they belong to a service client. Later calls raise
        `ClientClosedError`.
        """
        self._closed = True
        if not self._shared:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a client of REST calls cannot be pickled: its connections belong to this process. "
            "Make one in the process that uses it"
        )

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._transport.base_url}{' closed' if self._closed else ''}>"
        )

    def _connected(self) -> Transport:
        if self._closed or self._transport.closed:
            raise ClientClosedError(
                "the client, or the service client that made it, was closed before the call",
                advice="Make a new client.",
            )
        return self._transport

    async def _send(self, request: Request[T], *, repeatable: bool = True) -> T:
        return await self._connected().send(request, repeatable=repeatable)
