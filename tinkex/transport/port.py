"""The port between the client and the libraries that speak HTTP: what goes in, what comes out, and
where an exchange failed. No I/O here.

`Connections` is the port. Its adapters are `ConnectionPool`, by aiohttp, and `HttpxConnections`,
any transport for httpx that the user gives.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from attrs import define

from tinkex.config.proxies import Proxy
from tinkex.errors import FailurePoint
from tinkex.transport.unreachable import Reason


class Headers(Mapping[str, str]):
    """The headers of an answer. Names are looked up in any case; the values of a repeated name are
    joined by commas.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        """Takes names in lower case, and their values."""
        self._values: dict[str, str] = dict(pairs)
        if len(self._values) < len(pairs):
            self._join(pairs)

    def _join(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values.clear()
        for name, value in pairs:
            earlier = self._values.get(name)
            self._values[name] = value if earlier is None else f"{earlier}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        # without the exception by which `Mapping` finds out that a header is missing
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self._values)}>"


@define(eq=False)
class Message:
    """One HTTP request, whose method is not HEAD."""

    method: str
    url: str
    """The URL with its query, in ASCII."""
    headers: Mapping[str, str]
    """All headers but Host and Content-Length, which an adapter adds where they are missing."""
    content: bytes
    timeout: float
    """Seconds in which a piece of the request must be taken, and a piece of the answer arrive."""
    streamed: bool = False
    """Whether the caller reads the body of the answer piece by piece."""


class Body(Protocol):
    """The unread body of an answer, as it was sent: not decompressed."""

    def pieces(self) -> AsyncIterator[bytes]:
        """Yields the pieces as they arrive. Raises `ExchangeFailed` where they break off."""
        ...

    async def aclose(self) -> None:
        """Gives the connection back if the body was read to its end; else closes it."""
        ...


@define(eq=False)
class Answer:
    """The answer to a message, whatever its status."""

    status_code: int
    headers: Headers
    content: bytes = b""
    """The body; empty while `body` is unread."""
    reason_phrase: str = ""
    url: str = ""
    """The URL that was requested."""
    proxy: Proxy | None = None
    """The proxy that the message went through."""
    body: Body | None = None
    """The body that is still to be read; None once `content` has it."""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code <= 299

    @property
    def is_redirect(self) -> bool:
        """Whether the answer redirects to its header Location."""
        return self.status_code in _REDIRECTS and "location" in self.headers

    @property
    def text(self) -> str:
        """The body as text in UTF-8; other bytes are replaced."""
        return self.content.decode(errors="replace")

    async def aclose(self) -> None:
        if self.body is not None:
            await self.body.aclose()


_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ExchangeFailed(Exception):
    """The error for an exchange that brought no answer, or no whole one."""

    def __init__(
        self,
        text: str,
        failure_point: FailurePoint,
        *,
        late: bool = False,
        reason: Reason | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.failure_point: FailurePoint = failure_point
        self.late = late
        """Whether the time for a piece of the exchange ran out."""
        self.reason = reason
        """The reason, where more is known than the text says."""
        self.proxy = proxy
        """The proxy that the message went through."""


class Connections(Protocol):
    """A way to exchange messages for answers, for one event loop."""

    async def exchange(self, message: Message) -> Answer:
        """Sends a message once, and returns the answer.

        The body may be left unread, and is if `Message.streamed` is set.

        Raises:
            ExchangeFailed: no answer came.
            UnreadableAnswerError: the answer cannot be decoded.
        """
        ...

    async def aclose(self) -> None:
        """Closes the connections."""
        ...

    async def abandon(self) -> None:
        """Closes the connections when their event loop has ended."""
        ...
