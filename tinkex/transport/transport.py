"""`Transport`: one exchange with the server, with its key, its retries and its errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

import httpx
from attrs import define, field
from tinkex_api.types import Request

from tinkex import events
from tinkex.config import Config, log_level
from tinkex.errors import ClientClosedError, TinkexError
from tinkex.transport import failures, response_body
from tinkex.transport.answers import parse
from tinkex.transport.backoff import RetryBudget
from tinkex.transport.lifetimes import LoopBinding
from tinkex.transport.rate_limit import RateLimitWindow, window_for
from tinkex.transport.response_body import LINE_BYTES, lines
from tinkex.transport.retrying import RetryingCall
from tinkex.transport.sender import Sender
from tinkex.transport.server import Server, server_for
from tinkex.waiting.clock import Clock
from tinkex.waiting.wait import RequestState, Wait, WaitBound, Waits

P = ParamSpec("P")
T = TypeVar("T")
Listener: TypeAlias = Callable[[events.Event], object]


@define(eq=False)
class Transport:
    """Sends what the generated package builds, and gives back what it parses. For one event
    loop.
    """

    config: Config
    clock: Clock = field(factory=Clock)
    server: Server = field(init=False)
    closed: bool = field(init=False, default=False)
    waits: Waits = field(init=False)
    window: RateLimitWindow = field(init=False)
    listeners: list[Listener] = field(init=False, factory=list[Listener])
    """Functions that get the events of this client alone: its training steps and samples."""
    _sender: Sender = field(init=False)
    _loop_binding: LoopBinding = field(init=False, factory=LoopBinding)
    _bound_of_answer: WaitBound = field(init=False)
    _bound_of_result: WaitBound = field(init=False)

    def __attrs_post_init__(self) -> None:
        config = self.config
        if level := config.log_level or ("info" if config.dump_headers else None):
            log_level.show(level)
        self.server = server_for(config)
        self._sender = Sender(config, self.server, self.clock)
        self.waits = Waits(self.clock)
        self.window = window_for(config.base_url, config.api_key or config.credential_cmd)
        self._bound_of_answer = WaitBound(config.retry.max_wait, "Config.retry.max_wait")
        self._bound_of_result = WaitBound(config.poll.max_wait, "Config.poll.max_wait")

    @property
    def base_url(self) -> str:
        """The server's base URL; that of `Config`, or the address of this process's own server."""
        return self._sender.base_url

    async def send(
        self,
        request: Request[T],
        *,
        repeatable: bool = True,
        timeout: float | None = None,
        max_attempts: int | None = None,
        first_contact: bool = False,
        state: RequestState | None = None,
    ) -> T:
        """The server's answer, parsed.

        Args:
            repeatable: whether the server may get the request twice. If not, it is tried again only
                where it is certain that
                the server did not take it.
            timeout: seconds for one try; by default `Config.timeout`, or as long as a wait may be
                where the work is done meanwhile.
            max_attempts: at most so many tries, if `Config.retry` allows more.
            first_contact: few tries where nothing can be reached, or something that is no Tinker
                server.
            state: shows the wait to others, and may have settings of its own.

        Raises:
            APIConnectionError: no answer came; `sent` tells whether the server may have read the
                request.
            APIStatusError: the server refused, and trying again did not help.
            WaitTimeoutError: `RetrySettings.max_wait` is over.
            UnsupportedByServer: it is known to lack the call.
            APIResponseValidationError, NotATinkerServerError: no answer was of the contract's form.
        """
        self.server.require(request.operation)
        state = state or RequestState(request.operation)
        retry_budget = RetryBudget(
            state.retry or self.config.retry, repeatable, max_attempts, first_contact
        )
        with self._waiting_for_answer(state) as wait:
            return await self._exchange(
                request, timeout or self._usual_timeout, retry_budget, wait, partial(parse, request)
            )

    def require_open(self, operation: str) -> None:
        """Raises `ClientClosedError` once the client was closed, and on another event loop than the
        first that it was used on.
        """
        self._loop_binding.enter(operation)
        if self.closed:
            raise ClientClosedError(
                "not sent: the client was closed before the call, or the service client that "
                "made it",
                operation=operation,
                advice="Make a new service client, and the clients that it makes.",
            )

    def wait(self, state: RequestState, awaited: str) -> Wait:
        """To be entered by what waits for a result, or for its turn."""
        return self.waits.begin(state, awaited, self._bound_of_result)

    @asynccontextmanager
    async def stream_lines(
        self, request: Request[Any], *, timeout: float | None = None
    ) -> AsyncGenerator[AsyncGenerator[str]]:
        """The lines of a 2xx answer as they come; leaving closes the connection. Raises what `send`
        does, at any line, too.

        Args:
            timeout: seconds until the answer begins, and from one piece of it to the next; by
                default `Config.timeout`.
        """
        async with self.stream_answer(request, timeout=timeout) as response:
            yield lines(response, LINE_BYTES, self._sender.bound_of(request.operation))

    @asynccontextmanager
    async def stream_answer(
        self, request: Request[Any], *, timeout: float | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """A 2xx answer whose body is not read yet; leaving closes the connection. Raises what
        `send` does, while it is read, too.

        A redirect is not followed but raised. `timeout` is as for `stream`.
        """
        self.server.require(request.operation)
        retry_budget = RetryBudget(self.config.retry, True, None)
        with self._waiting_for_answer(RequestState(request.operation)) as wait:
            response = await self._exchange(
                request, timeout or self._usual_timeout, retry_budget, wait, _as_it_is, whole=False
            )
        async with self._reading(response, request.operation):
            yield response

    async def read(self, request: Request[T], response: httpx.Response) -> T:
        """Reads an answer of `answer` to its end, and parses it. Raises what `send` does."""
        bound = self._sender.bound_of(request.operation)
        return parse(request, await response_body.read_whole(response, bound))

    @asynccontextmanager
    async def open_url(
        self, url: str, operation: str, *, with_key: bool, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """The answer to a GET of any URL, whatever its status; its body is not read where it is a
        success. Leaving closes the connection.

        Args:
            with_key: whether the key and the user's headers go along: never to another server.

        Raises:
            APIConnectionError: no answer came, or it broke off while it was read.
        """
        self.require_open(operation)
        response = await self._sender.get(
            url, operation, with_key=with_key, headers=headers or {}, timeout=self.config.timeout
        )
        async with self._reading(response, operation):
            yield response

    async def send_once(
        self, request: Request[Any], *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """The bare answer of one try, whatever its status. Raises `APIConnectionError` when none
        came.
        """
        self.require_open(request.operation)
        return await self._sender.attempt(request, headers or {}, timeout)

    def emit(self, kind: Callable[P, events.Event], *args: P.args, **kwargs: P.kwargs) -> None:
        """Sends an event to this client's listeners and the process's; makes none without any."""
        if not self.listeners:
            events.emit(kind, *args, **kwargs)
            return
        event = kind(*args, **kwargs)
        events.publish(event)
        for listener in self.listeners:
            listener(event)

    def is_own(self, url: str) -> bool:
        """Returns whether a URL lies below the server's base URL."""
        return self._sender.is_own(url)

    async def api_key(self) -> str | None:
        """Returns the key that requests carry now; None without one. Raises what `send` does."""
        return await self._sender.auth.key()

    async def aclose(self) -> None:
        """Closes the connections; from any event loop."""
        await self.shut_down(self._aclose)

    async def shut_down(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs the last work, on the loop that this belongs to; if that has ended the connections
        are let go instead.
        """
        if not await self._loop_binding.run(work):
            self.closed = True
            await self._sender.abandon()

    def schedule_shut_down(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Has the last work done on the loop that this belongs to, unless that has ended. May be
        called in any thread.
        """
        self._loop_binding.soon(work)

    async def _aclose(self) -> None:
        self.closed = True
        await self._sender.aclose()

    def _waiting_for_answer(self, state: RequestState) -> Wait:
        return self.waits.begin(state, "an answer", self._bound_of_answer)

    async def _exchange(
        self,
        request: Request[Any],
        timeout: float,
        retry_budget: RetryBudget,
        wait: Wait,
        read: Callable[[httpx.Response], T],
        *,
        whole: bool = True,
    ) -> T:
        self.require_open(request.operation)
        # the same over all tries
        headers = (
            {}
            if request.method == "GET"
            else {"X-Idempotency-Key": f"tinkex-{self.clock.new_id()}"}
        )
        try:
            return await RetryingCall(
                self._sender,
                self.window,
                request,
                headers,
                timeout,
                whole,
                retry_budget,
                wait,
                read,
            ).answered()
        except TinkexError as error:
            if wait.tries > 1:
                error.message += f" (tried {wait.tries} times)"
            raise

    @asynccontextmanager
    async def _reading(self, response: httpx.Response, operation: str) -> AsyncGenerator[None]:
        """Around what reads a body; closes it in the end."""
        try:
            yield
        except httpx.DecodingError as error:
            raise response_body.unreadable(str(error), operation) from error
        except httpx.TransportError as error:
            whom = self._sender.whom(response.request.url)
            raise failures.connection_error(error, "answered", operation, whom) from error
        finally:
            await response.aclose()

    @property
    def _usual_timeout(self) -> float:
        return self.config.poll.max_wait if self.server.dialect.long_posts else self.config.timeout


def _as_it_is(response: httpx.Response) -> httpx.Response:
    """Returns an answer that its asker reads itself."""
    return response
