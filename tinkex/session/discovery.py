"""Discovery: asks the server at a base URL what it is and what it can do."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

from tinkex_api.api.server import (
    get_client_config,
    get_dynamic_config,
    get_server_capabilities,
    health,
)
from tinkex_api.models import ClientConfigRequest
from tinkex_api.types import Request

from tinkex._version import __version__
from tinkex.config import HOSTED_BASE_URL
from tinkex.dialects.detect import FirstAnswers, has_route, key_flags, telling_route
from tinkex.errors import APIError, APIStatusError, NotATinkerServerError, UnsupportedByServer
from tinkex.transport.failures import is_web_page, status_error
from tinkex.transport.transport import Transport

T = TypeVar("T")

_GATEWAY_STATUSES = frozenset({429, 500, *range(502, 600)})


async def discover(transport: Transport) -> None:
    """Sets `transport.server.dialect` by asking the server, unless it is known already."""
    if not transport.server.is_known:
        with first_contact(transport):
            transport.server.observe(await ask_server(transport))


async def ask_server(transport: Transport) -> FirstAnswers:
    """Asks the server about itself, and returns its answers.

    A server without flags is also asked for other calls, and one whose flags do not identify it for
    the route that does.
    """
    before = transport.server.observed
    config, refusal = await _ask(
        transport, get_client_config.request(body=ClientConfigRequest(__version__))
    )
    if config is not None:
        transport.server.update_dialect(**key_flags(config))
    dynamic = (
        None
        if config is None
        else await _ask_if_present(
            transport, get_dynamic_config.request(body=ClientConfigRequest(__version__))
        )
    )
    is_given = transport.config.dialect is not None
    named = config is not None or is_given
    route = None if is_given else telling_route(config)
    return FirstAnswers(
        hosted=transport.config.base_url == HOSTED_BASE_URL,
        config=config,
        dynamic=dynamic,
        has_capabilities=named
        or await _ask_if_present(transport, get_server_capabilities.request()) is not None,
        has_health=named or await _ask_if_present(transport, health.request()) is not None,
        request_ids="x-request-id" in refusal.headers
        if refusal
        else before is not None and before.request_ids,
        has_telling_route=None if route is None else await _has_route(transport, route),
    )


async def _ask_if_present(transport: Transport, request: Request[T]) -> T | None:
    """Returns the answer, or None if the server lacks the call."""
    return (await _ask(transport, request))[0]


async def _ask(transport: Transport, request: Request[T]) -> tuple[T | None, APIStatusError | None]:
    """Returns the answer and None; or, if the server lacks the call, None and its refusal.

    The refusal is None if the call was known to be missing, so that nothing was sent.
    """
    try:
        return await transport.send(request, first_contact=True), None
    except UnsupportedByServer as error:
        return None, error.__cause__ if isinstance(error.__cause__, APIStatusError) else None
    except APIStatusError as error:
        if error.status_code not in (404, 405, 501):
            raise
        return None, error


async def _has_route(transport: Transport, path: str) -> bool | None:
    """Returns whether the server has a route that is not in the API; None if that is unclear."""
    request: Request[None] = Request("first_contact", "GET", path, lambda _: None)
    try:
        response = await transport.send_once(request, timeout=transport.config.timeout)
    except APIError:
        return None
    refusal = status_error(response, request.operation)
    return has_route(refusal.status_code, refusal.body)


@contextmanager
def first_contact(transport: Transport) -> Generator[None]:
    """Raises `NotATinkerServerError` for an answer that is a web page, unless a gateway sent it for
    a server that is down.
    """
    try:
        yield
    except APIStatusError as error:
        if not is_web_page(error.body) or error.status_code in _GATEWAY_STATUSES:
            raise
        raise NotATinkerServerError(
            f"the server at {transport.base_url} is not a Tinker server: it answered "
            f"{error.message}, as a web page",
            operation=error.operation,
            advice="Check base_url: the API is expected below it, at /api/v1/…",
        ) from error
