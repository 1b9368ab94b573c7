"""`Transport`: sends requests to the server, with keys, retries and errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeAlias, TypeVar

from attrs import define, field
from tinkex_api.types import Request

from tinkex import events
from tinkex.config import Config, log_level
from tinkex.errors import ClientClosedError, UnreadableAnswerError
from tinkex.transport import failures, response_body
from tinkex.transport.answers import parse
from tinkex.transport.backoff import RetryBudget
from tinkex.transport.lifetimes import LoopBinding
from tinkex.transport.port import Answer, ExchangeFailed
from tinkex.transport.rate_limit import RateLimiter, rate_limiter_for
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
    """The connection of a client to its server, for one event loop.

    It sends requests that the generated package builds, and returns what that parses.
    """

    config: Config
    clock: Clock = field(factory=Clock)
    server: Server = field(init=False)
    closed: bool = field(init=False, default=False)
    waits: Waits = field(init=False)
    rate_limiter: RateLimiter = field(init=False)
    listeners: list[Listener] = field(init=False, factory=list[Listener])
    """Functions that receive the events of this client: its training steps and samples."""
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
        self.rate_limiter = rate_limiter_for(
            config.base_url, config.api_key or config.credential_cmd
        )
        self._bound_of_answer = WaitBound(config.retry.max_wait, "Config.retry.max_wait")
        self._bound_of_result = WaitBound(config.poll.max_wait, "Config.poll.max_wait")

    @property
    def base_url(self) -> str:
        """The base URL of `Config`; the address of the server in this process, if it is "local"."""
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
        """Sends a request, retries it where that may help, and returns the parsed answer.

        Args:
            repeatable: whether the server may receive the request twice. If not, it is retried only
                if the server has certainly not accepted it.
            timeout: seconds for one attempt; by default `Config.timeout`, or the bound of a wait
                for servers that compute before they answer.
            max_attempts: the most attempts, if `Config.retry` allows more.
            first_contact: whether to give up early where no Tinker server answers.
            state: the state in which others see the wait; it may have retry settings of its own.

        Raises:
            APIConnectionError: no answer came; `sent` tells whether the server may have read the
                request.
            APIStatusError: the server refused the request, and retries did not help.
            WaitTimeoutError: `RetrySettings.max_wait` has passed.
            UnsupportedByServer: the server is known to lack the call.
            APIResponseValidationError, NotATinkerServerError: no answer had the form of the
                contract.
        """
        self.server.require(request.operation)
        state = state or RequestState(request.operation)
        retry_budget = RetryBudget(
            state.retry or self.config.retry, repeatable, max_attempts, first_contact
        )
        with self._waiting_for_answer(state) as wait:
            return await self._call(request, timeout, retry_budget, wait, parse).send()

    def require_open(self, operation: str) -> None:
        """Raises `ClientClosedError` if the client is closed, or belongs to another event loop."""
        self._loop_binding.check(operation)
        if self.closed:
            raise ClientClosedError(
                "not sent: the client, or the service client that made it, was closed before the "
                "call",
                operation=operation,
                advice="Make a new service client, and new clients from it.",
            )

    def wait(self, state: RequestState, awaited: str) -> Wait:
        """Returns a context manager for a wait for a result, or for the turn of a call."""
        return self.waits.create(state, awaited, self._bound_of_result)

    @asynccontextmanager
    async def stream_lines(
        self, request: Request[Any], *, timeout: float | None = None
    ) -> AsyncGenerator[AsyncGenerator[str]]:
        """Opens a 2xx answer, and yields an iterator over its lines. Leaving closes the connection.

        Raises what `send` does, also while lines are read.

        Args:
            timeout: seconds until the answer begins, and between two pieces of it; by default
                `Config.timeout`.
        """
        async with self.stream_answer(request, timeout=timeout) as response:
            yield lines(response, LINE_BYTES, self._sender.bound_of(request.operation))

    @asynccontextmanager
    async def stream_answer(
        self, request: Request[Any], *, timeout: float | None = None
    ) -> AsyncGenerator[Answer]:
        """Opens a 2xx answer whose body is unread. Leaving closes the connection.

        Raises what `send` does, also while the body is read, and `APIStatusError` for a redirect.
        `timeout` is as for `stream_lines`.
        """
        self.server.require(request.operation)
        retry_budget = RetryBudget(self.config.retry, True, None)
        with self._waiting_for_answer(RequestState(request.operation)) as wait:
            call = self._call(request, timeout, retry_budget, wait, _unparsed, whole=False)
            response = await call.send()
        async with self._reading(response, request.operation):
            yield response

    async def read(self, request: Request[T], response: Answer) -> T:
        """Reads and parses an answer of `stream_answer`. Raises what `send` does."""
        bound = self._sender.bound_of(request.operation)
        await response_body.read_whole(response, bound)
        return parse(request, response)

    @asynccontextmanager
    async def open_url(
        self, url: str, operation: str, *, with_key: bool, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Answer]:
        """Opens the answer to a GET of any URL, whatever its status. Leaving closes the connection.

        The body of a success is unread.

        Args:
            with_key: whether to send the key and the user's headers; False for other servers.

        Raises:
            APIConnectionError: no answer came, or the connection broke while it was read.
        """
        self.require_open(operation)
        response = await self._sender.get(
            url, operation, with_key=with_key, headers=headers or {}, timeout=self.config.timeout
        )
        async with self._reading(response, operation):
            yield response

    def send_once(
        self, request: Request[Any], *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Coroutine[Any, Any, Answer]:
        """Makes one attempt, and returns the answer, whatever its status. Raises
        `APIConnectionError` when none came.
        """
        self.require_open(request.operation)
        return self._sender.attempt(request, headers or {}, timeout)

    def emit(self, kind: Callable[P, events.Event], *args: P.args, **kwargs: P.kwargs) -> None:
        """Creates an event, and sends it to the listeners of this client and of the process."""
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
        """Returns the key that requests carry now; None without a key. Raises what `send` does."""
        return await self._sender.auth.key()

    async def aclose(self) -> None:
        """Closes the connections. May be called on any event loop."""
        await self.shut_down(self._aclose)

    async def shut_down(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs the last work of the client, on its own event loop.

        If that loop has ended, only the connections are closed.
        """
        if not await self._loop_binding.run(work):
            self.closed = True
            await self._sender.abandon()

    def schedule_shut_down(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Schedules the last work on the client's own event loop, unless that has ended. May be
        called in any thread.
        """
        self._loop_binding.schedule(work)

    async def _aclose(self) -> None:
        self.closed = True
        await self._sender.aclose()

    def _waiting_for_answer(self, state: RequestState) -> Wait:
        return self.waits.create(state, "an answer", self._bound_of_answer, "network")

    def _call(
        self,
        request: Request[Any],
        timeout: float | None,
        retry_budget: RetryBudget,
        wait: Wait,
        read: Callable[[Request[Any], Answer], Any],
        *,
        whole: bool = True,
    ) -> RetryingCall:
        self.require_open(request.operation)
        # all attempts have the same key
        headers = (
            {}
            if request.method == "GET"
            else {"X-Idempotency-Key": f"tinkex-{self.clock.new_id()}"}
        )
        return RetryingCall(
            self._sender,
            self.rate_limiter,
            request,
            headers,
            timeout or self._usual_timeout,
            whole,
            retry_budget,
            wait,
            read,
        )

    @asynccontextmanager
    async def _reading(self, response: Answer, operation: str) -> AsyncGenerator[None]:
        """Translates errors while a body is read, and closes the answer at the end."""
        try:
            yield
        except UnreadableAnswerError as error:
            error.operation = operation
            raise
        except ExchangeFailed as failed:
            server = self._sender.server_name(response.url)
            raise failures.connection_error(failed, operation, server) from failed
        finally:
            await response.aclose()

    @property
    def _usual_timeout(self) -> float:
        return self.config.poll.max_wait if self.server.dialect.long_posts else self.config.timeout


def _unparsed(request: Request[Any], response: Answer) -> Answer:
    """Returns the answer unparsed, for a caller that reads it."""
    return response
