"""`Sender`: makes one attempt of one request, and returns the answer, whatever its status."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from attrs import define, field
from tinkex_api.api.auth import create_auth_token
from tinkex_api.models import AuthTokenRequest
from tinkex_api.types import Request

from tinkex import events
from tinkex.config import LOCAL, Config
from tinkex.config.secrets import Secret, as_secret, masked
from tinkex.errors import ClientClosedError, UnreadableAnswerError
from tinkex.local.process_server import local_url
from tinkex.threads import in_thread
from tinkex.transport import adaptation, failures, response_body
from tinkex.transport.answers import parse
from tinkex.transport.auth import Auth
from tinkex.transport.connection import ConnectionPool
from tinkex.transport.deprecation import Deprecations
from tinkex.transport.lifetimes import weakly
from tinkex.transport.messages import (
    PUBLIC_HEADERS,
    UNCOMPRESSED,
    constant_headers,
    with_default_query,
)
from tinkex.transport.port import Answer, Connections, ExchangeFailed, Message
from tinkex.transport.redirects import MAX_REDIRECTS, next_url
from tinkex.transport.server import Server
from tinkex.transport.unreachable import proxy_refused
from tinkex.transport.urls import split_url, with_query
from tinkex.waiting.clock import Clock

logger = logging.getLogger("tinkex")

_EMPTY: Mapping[str, str] = {}


def connections_of(config: Config) -> Connections:
    """Returns connections with the proxies, certificates and bounds of the settings, or those that
    the user gives.
    """
    if config.http_transport is not None:
        from tinkex.transport.httpx_connections import HttpxConnections  # httpx is slow to import

        return HttpxConnections(config.http_transport, config.connect_timeout)
    return ConnectionPool(
        config.http_limits,
        proxies=config.proxies,
        proxy_headers=config.proxy_headers,
        environment=config.sources.environment,
        connect_timeout=config.connect_timeout,
    )


@define(eq=False)
class Sender:
    """The sender of one transport's requests, for one event loop.

    It adds the key and the user's headers to them, follows redirects, and emits events.
    """

    config: Config
    server: Server
    clock: Clock
    auth: Auth = field(init=False)
    base_url: str = field(init=False)
    """The URL of `Config`; of the server in this process its address, once it has started."""
    _connections: Connections = field(init=False)
    _closed: bool = field(init=False, default=False)
    _headers: dict[str, str] = field(init=False, repr=False)
    _given_headers: frozenset[str] = field(init=False)
    """The names of the user's headers, which replace the client's."""
    _key_form: tuple[str, bool] | None = field(init=False, default=None, repr=False)
    """The key of `_keyed_headers`, and whether it is a bearer token, too."""
    _keyed_headers: Mapping[str, str] = field(init=False, factory=dict[str, str], repr=False)
    _deprecations: Deprecations = field(init=False, factory=Deprecations)

    def __attrs_post_init__(self) -> None:
        self.auth = Auth(self.config, self.server, self.clock, weakly(self._exchange_key))
        self._connections = connections_of(self.config)
        self.base_url = self.config.base_url
        # secret ones hide themselves in tracebacks, which show the local variables of libraries
        self._headers = as_secret(constant_headers(self.config, self.clock.new_id()))
        self._given_headers = frozenset(name.lower() for name in self.config.default_headers)

    async def attempt(
        self,
        request: Request[Any],
        headers: Mapping[str, str],
        timeout: float,
        *,
        whole: bool = True,
    ) -> Answer:
        """Sends a request, and returns the answer.

        After a 401 the request is sent once more if there is another key by then. Redirects are
        followed if `whole` is set.

        Args:
            headers: headers in addition to those of every request.
            timeout: seconds to write the request, and between two pieces of the answer.
            whole: whether to read the body of a success; a refusal's body is always read.

        Raises:
            APIConnectionError: no answer came.
        """
        if self.starts_server:
            await self._start_server()
        key = await self.auth.key()
        response = await self._send(request, key, headers, timeout, whole=whole)
        if response.status_code == 401 and key is not None and await self.auth.replace(key):
            response = await self._send(
                request, await self.auth.key(), headers, timeout, whole=whole
            )
        if whole and response.is_redirect:
            response = await self._follow_redirects(request, response, headers, timeout)
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
    ) -> Answer:
        """Sends a GET to any URL, and returns the answer, whatever its status.

        Args:
            with_key: whether to send the key and the user's headers; False for other servers.

        Raises:
            APIConnectionError: no answer came.
        """
        ours = self._with_key(await self.auth.key()) if with_key else PUBLIC_HEADERS
        events.emit(events.HttpRequestStart, operation=operation)
        sent = {**ours, **as_secret(headers)}
        message = Message("GET", url, sent, b"", timeout, streamed=not whole)
        return await self._exchange(message, operation)

    @property
    def starts_server(self) -> bool:
        """Whether the next request has to start the server in this process first."""
        return self.base_url == LOCAL

    def is_own(self, url: str) -> bool:
        """Returns whether a URL lies below the server's base URL."""
        return url.startswith(f"{self.base_url}/")

    def server_name(self, url: str) -> str:
        """Returns the server of a URL, for messages.

        The rest of another server's URL is left out, since it may be signed.
        """
        if self.is_own(url):
            return self.base_url
        parts = split_url(url)
        return f"{parts.scheme}://{parts.netloc}"

    async def aclose(self) -> None:
        self._closed = True
        await self.auth.aclose()
        await self._connections.aclose()

    async def abandon(self) -> None:
        """Closes the connections when their event loop has ended."""
        await self._connections.abandon()

    async def _exchange_key(self, key: str) -> str:
        request = create_auth_token.request(body=AuthTokenRequest())
        response = await self._send(request, key, {}, self.config.timeout, whole=True)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        return Secret(parse(request, response).jwt)

    async def _start_server(self) -> None:
        """Starts the server in this process, unless it runs already, and takes its address.

        Raises `ConfigError` when it cannot start.
        """
        self.base_url = await in_thread(local_url)  # in a thread, since a start takes seconds

    async def _follow_redirects(
        self,
        request: Request[Any],
        response: Answer,
        headers: Mapping[str, str],
        timeout: float,
    ) -> Answer:
        """Returns the answer to which redirects lead, or the redirect that is not followed."""
        for _ in range(MAX_REDIRECTS):
            url = (
                next_url(request.method, response, self.base_url) if response.is_redirect else None
            )
            if url is None:
                break
            if self.is_own(url):
                response = await self._send(
                    request, await self.auth.key(), headers, timeout, whole=True, url=url
                )
            else:
                response = await self.get(
                    url, request.operation, with_key=False, headers={}, timeout=timeout, whole=True
                )
        return response

    def _with_key(self, key: str | None) -> Mapping[str, str]:
        """Returns the headers of every request, with those that carry the key. They are built anew
        only for another key, or another form of it.
        """
        if key is None:
            return self._headers
        form, headers = (key, self.server.dialect.bearer), self._keyed_headers
        if form != self._key_form:
            ours = {"X-API-Key": Secret(key), **(adaptation.bearer(key) if form[1] else {})}
            kept = {
                name: value
                for name, value in ours.items()
                if name.lower() not in self._given_headers
            }
            self._key_form, self._keyed_headers = form, {**self._headers, **kept}
            headers = self._keyed_headers
        return headers

    def _send(
        self,
        request: Request[Any],
        key: str | None,
        headers: Mapping[str, str],
        timeout: float,
        *,
        whole: bool,
        url: str | None = None,
    ) -> Coroutine[Any, Any, Answer]:
        """Sends a request to the server; to `url`, complete with its query, after a redirect."""
        events.emit(events.HttpRequestStart, operation=request.operation)
        headers = {
            **self._with_key(key),
            **(_EMPTY if whole else UNCOMPRESSED),
            **headers,
            **(_EMPTY if events.trace_headers is None else events.trace_headers()),
            **request.headers,
        }
        if self.config.dump_headers:
            logger.info("%s %s %s", request.method, request.path, masked(headers))
        if url is None:
            query = with_default_query(request.params, self.config.default_query)
            url = with_query(self.base_url + request.path, query)
        message = Message(
            request.method,
            url,
            headers,
            request.content or b"",
            timeout,
            streamed=not whole,
        )
        return self._exchange(message, request.operation)

    async def _exchange(self, message: Message, operation: str) -> Answer:
        began = self.clock.now()
        try:
            if self._closed:
                raise ClientClosedError(
                    "the client was closed before this call had ended",
                    operation=operation,
                    advice="Await the calls before you close their client.",
                )
            answer = await self._connections.exchange(message)
            if answer.status_code == 407 and answer.proxy is not None:  # the proxy's own
                refused = proxy_refused(answer.proxy, 407, answer.reason_phrase)
                await answer.aclose()
                raise ExchangeFailed(refused.text, "unsent", reason=refused, proxy=answer.proxy)
            if not message.streamed or not answer.is_success:
                await response_body.read_whole(answer, self.bound_of(operation))
        except BaseException as error:
            seconds = self.clock.now() - began
            events.emit(
                events.HttpRequestException,
                operation=operation,
                error=_class_of(error),
                seconds=seconds,
            )
            if isinstance(error, UnreadableAnswerError):
                error.operation = operation
            if not isinstance(error, ExchangeFailed):
                raise
            raise failures.connection_error(
                error, operation, self.server_name(message.url)
            ) from error
        if answer.proxy is not None and message.url.startswith("https:"):
            answer.proxy = None  # which cannot have answered in the server's place
        events.emit(
            events.HttpRequestStop,
            operation=operation,
            status=answer.status_code,
            seconds=self.clock.now() - began,
        )
        self._deprecations.log_note(operation, answer.headers)
        return answer

    def bound_of(self, operation: str) -> response_body.SizeBound:
        """Returns the most bytes of an answer to `operation`."""
        return response_body.bound_of(operation, self.config.http_limits.max_answer_bytes)


def _class_of(error: BaseException) -> str:
    """Returns the name of an error's class, or of the class that it has for the user."""
    if isinstance(error, ExchangeFailed):
        return "APITimeoutError" if error.late else "APIConnectionError"
    return type(error).__name__
