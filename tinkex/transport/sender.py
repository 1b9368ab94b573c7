"""`Sender`: one try of one request, from the message that goes out to the answer, whatever that
says.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
from attrs import define, field
from tinkex_api.api.auth import create_auth_token
from tinkex_api.models import AuthTokenRequest
from tinkex_api.types import Request

from tinkex import events
from tinkex.config import LOCAL, Config
from tinkex.config.secrets import Secret, masked
from tinkex.errors import APIConnectionError, UnreadableAnswerError
from tinkex.local.connection import LocalConnection
from tinkex.transport import adaptation, failures, response_body
from tinkex.transport.answers import parse
from tinkex.transport.auth import Auth
from tinkex.transport.deprecation import Deprecations
from tinkex.transport.exchange_stage import ExchangeStage, current_stage
from tinkex.transport.lifetimes import weakly
from tinkex.transport.messages import (
    PUBLIC_HEADERS,
    UNCOMPRESSED,
    build_message,
    constant_headers,
    with_default_query,
)
from tinkex.transport.redirects import MAX_REDIRECTS, next_url
from tinkex.transport.server import Server
from tinkex.transport.unreachable import Unreachable, proxy_refused
from tinkex.waiting.clock import Clock

logger = logging.getLogger("tinkex")


def connection_pool(config: Config) -> httpx.AsyncBaseTransport:
    """Returns connections with the proxies, certificates and bounds of the settings."""
    # here, since aiohttp takes its time to import
    from tinkex.transport.connection import ConnectionPool

    return ConnectionPool(
        config.http_limits,
        proxies=config.proxies,
        proxy_headers=config.proxy_headers,
        environment=config.sources.environment,
    )


@define(eq=False)
class Sender:
    """Puts the key and the user's headers on requests, and tells listeners of them. For one event
    loop.
    """

    config: Config
    server: Server
    clock: Clock
    auth: Auth = field(init=False)
    _pool: httpx.AsyncBaseTransport = field(init=False)
    _local: LocalConnection | None = field(init=False)
    """What leads to the server of this process, for a client of that server."""
    _headers: dict[str, str] = field(init=False, repr=False)
    _given_headers: frozenset[str] = field(init=False)
    """The names of the user's own, which go before ours."""
    _deprecations: Deprecations = field(init=False, factory=Deprecations)

    def __attrs_post_init__(self) -> None:
        self.auth = Auth(self.config, self.server, self.clock, weakly(self._exchange_key))
        self._pool = self.config.http_transport or connection_pool(self.config)
        self._local = LocalConnection(self._pool) if self.config.base_url == LOCAL else None
        self._headers = constant_headers(self.config, self.clock.new_id())
        self._given_headers = frozenset(name.lower() for name in self.config.default_headers)

    async def attempt(
        self,
        request: Request[Any],
        headers: Mapping[str, str],
        timeout: float,
        *,
        whole: bool = True,
    ) -> httpx.Response:
        """The answer, read to its end; only its beginning where it is a success and not wanted
        `whole`.

        One that a key has become too old for is sent again, once, with another. Where an answer
        that is wanted whole lies elsewhere, it is asked for there. Raises `APIConnectionError` when
        none came.

        Args:
            headers: beside the constant ones.
            timeout: seconds to write, and from one piece of the answer to the next.
        """
        key = await self.auth.key()
        response = await self._deliver(request, key, headers, timeout, whole=whole)
        if response.status_code == 401 and key is not None and await self.auth.replace(key):
            response = await self._deliver(
                request, await self.auth.key(), headers, timeout, whole=whole
            )
        if whole and response.has_redirect_location:
            response = await self._followed(request, response, headers, timeout)
        return response

    async def get(
        self,
        url: str,
        operation: str,
        *,
        with_key: bool,
        headers: Mapping[str, str],
        timeout: float,
        whole: bool = False,
    ) -> httpx.Response:
        """The answer to a GET of any URL, whatever its status. Raises `APIConnectionError` when
        none came.

        Args:
            with_key: whether the key and the user's headers go along: never to another server.
        """
        ours = (
            {**self._headers, **self._with_key(await self.auth.key())}
            if with_key
            else PUBLIC_HEADERS
        )
        extensions = self._extensions(timeout, whole=whole)
        return await self._carried(
            httpx.Request("GET", url, headers={**ours, **headers}, extensions=extensions),
            operation,
            whole,
        )

    @property
    def base_url(self) -> str:
        """The URL of `Config`; of the server in this process its address, once it has started."""
        return self.config.base_url if self._local is None else self._local.base_url

    def is_own(self, url: str) -> bool:
        """Whether it is a URL of this server."""
        return url.startswith(f"{self.base_url}/")

    def whom(self, url: httpx.URL) -> str:
        """The server asked, in words; of another one's URL not the rest, which may be a right to
        read.
        """
        return (
            self.base_url
            if self.is_own(str(url))
            else f"{url.scheme}://{url.netloc.decode('ascii')}"
        )

    async def aclose(self) -> None:
        await self.auth.aclose()
        await self._pool.aclose()

    async def abandon(self) -> None:
        """Lets go of the connections of a loop that has ended."""
        abandon: Callable[[], Awaitable[None]] | None = getattr(self._pool, "abandon", None)
        if abandon is not None:  # a transport of the user's own has none
            await abandon()

    async def _exchange_key(self, key: str) -> str:
        request = create_auth_token.request(body=AuthTokenRequest())
        response = await self._deliver(request, key, {}, self.config.timeout, whole=True)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        return Secret(parse(request, response).jwt)

    async def _followed(
        self,
        request: Request[Any],
        response: httpx.Response,
        headers: Mapping[str, str],
        timeout: float,
    ) -> httpx.Response:
        """What is found where the redirect leads; the redirect itself where it is not to be
        followed.
        """
        for _ in range(MAX_REDIRECTS):
            url = (
                next_url(request.method, response, self.base_url)
                if response.has_redirect_location
                else None
            )
            if url is None:
                break
            if self.is_own(url):
                response = await self._deliver(
                    request, await self.auth.key(), headers, timeout, whole=True, url=url
                )
            else:
                response = await self.get(
                    url, request.operation, with_key=False, headers={}, timeout=timeout, whole=True
                )
        return response

    def _with_key(self, key: str | None) -> Mapping[str, str]:
        """The headers that carry it."""
        if key is None:
            return {}
        headers = {
            "X-API-Key": key,
            **(adaptation.bearer(key) if self.server.dialect.bearer else {}),
        }
        return {
            name: value
            for name, value in headers.items()
            if name.lower() not in self._given_headers
        }

    async def _deliver(
        self,
        request: Request[Any],
        key: str | None,
        headers: Mapping[str, str],
        timeout: float,
        *,
        whole: bool,
        url: str | None = None,
    ) -> httpx.Response:
        """`url` is where a redirect leads, which has all that stands in a URL."""
        events.emit(events.HttpRequestStart, operation=request.operation)
        headers = {
            **self._headers,
            **self._with_key(key),
            **({} if whole else UNCOMPRESSED),
            **headers,
        }
        if events.trace_headers is not None:
            headers = {**headers, **events.trace_headers()}
        if self.config.dump_headers:
            logger.info(
                "%s %s %s", request.method, request.path, masked({**headers, **request.headers})
            )
        query = None if url else with_default_query(request.params, self.config.default_query)
        made = build_message(
            request,
            url or self.base_url + request.path,
            query,
            headers,
            self._extensions(timeout, whole=whole),
        )
        return await self._carried(made, request.operation, whole)

    async def _carried(self, message: httpx.Request, operation: str, whole: bool) -> httpx.Response:
        stage, began = ExchangeStage(), self.clock.now()
        current_stage.set(stage)
        try:
            response = await (self._local or self._pool).handle_async_request(message)
            if whole or not response.is_success:
                response = await response_body.read_whole(response, self.bound_of(operation))
        except BaseException as error:
            seconds = self.clock.now() - began
            events.emit(
                events.HttpRequestException,
                operation=operation,
                error=type(error).__name__,
                seconds=seconds,
            )
            if isinstance(error, httpx.DecodingError):  # of a transport of the user's own
                raise response_body.unreadable(str(error), operation) from error
            if isinstance(error, UnreadableAnswerError):
                error.operation = operation
            if not isinstance(error, httpx.TransportError):
                raise
            raise self._no_answer(error, stage, operation, message.url) from error
        if response.status_code == 407 and stage.proxy is not None:  # no server's own word
            refused = Unreachable(proxy_refused(stage.proxy, 407, response.reason_phrase))
            raise self._no_answer(refused, ExchangeStage("unsent"), operation, message.url)
        if stage.proxy is not None and message.url.scheme == "http":
            response.extensions["proxy"] = stage.proxy  # which may have answered itself
        seconds = self.clock.now() - began
        events.emit(
            events.HttpRequestStop,
            operation=operation,
            status=response.status_code,
            seconds=seconds,
        )
        self._deprecations.heed(operation, response.headers)
        return response

    def _no_answer(
        self, error: httpx.TransportError, stage: ExchangeStage, operation: str, url: httpx.URL
    ) -> APIConnectionError:
        place = stage.failure_point or failures.failure_point_of(error)
        return failures.connection_error(error, place, operation, self.whom(url), stage.proxy)

    def bound_of(self, operation: str) -> response_body.SizeBound:
        """How large an answer may be."""
        return response_body.bound_of(operation, self.config.http_limits.max_answer_bytes)

    def _extensions(self, timeout: float, *, whole: bool) -> dict[str, Any]:
        times = {
            "connect": self.config.connect_timeout,
            "read": timeout,
            "write": timeout,
            "pool": timeout,
        }
        return {"timeout": times, "stream": not whole}
