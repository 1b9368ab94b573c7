"""Finds out which server answers at a base URL, and what it can do, by asking it."""

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

_OF_GATEWAYS = frozenset({429, 500, *range(502, 600)})


async def discover(transport: Transport) -> None:
    """Asks the server about itself, unless that was done before, so that `transport.server.dialect`
    is what it speaks.
    """
    if not transport.server.is_known:
        with first_contact(transport):
            transport.server.observe(await ask_server(transport))


async def ask_server(transport: Transport) -> FirstAnswers:
    """Asks the server about itself; of one that has no flags it is asked what else it lacks, of one
    whose flags others have, too, what tells them apart.
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
        else await _if_there(
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
        or await _if_there(transport, get_server_capabilities.request()) is not None,
        has_health=named or await _if_there(transport, health.request()) is not None,
        request_ids="x-request-id" in refusal.headers
        if refusal
        else before is not None and before.request_ids,
        has_telling_route=None if route is None else await _has_route(transport, route),
    )


async def _if_there(transport: Transport, request: Request[T]) -> T | None:
    """The answer, or None of a server that lacks the call."""
    return (await _ask(transport, request))[0]


async def _ask(transport: Transport, request: Request[T]) -> tuple[T | None, APIStatusError | None]:
    """The answer; of a server that lacks the call None, and its refusal unless that was known
    before.
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
    """Whether the server has a route that is not of the contract; None where that cannot be
    told.
    """
    request: Request[None] = Request(
        "first_contact", {"method": "get", "url": path}, lambda _: None
    )
    try:
        response = await transport.send_once(request, timeout=transport.config.timeout)
    except APIError:
        return None
    refusal = status_error(response, request.operation)
    return has_route(refusal.status_code, refusal.body)


@contextmanager
def first_contact(transport: Transport) -> Generator[None]:
    """Raises `NotATinkerServerError` in place of a web server's own page of refusal; gateways speak
    so for a server that is away.
    """
    try:
        yield
    except APIStatusError as error:
        if not is_web_page(error.body) or error.status_code in _OF_GATEWAYS:
            raise
        raise NotATinkerServerError(
            f"what answers at {transport.base_url} is no Tinker server: {error.message}, "
            "as a web page",
            operation=error.operation,
            advice="Check base_url: it is the URL below which /api/v1/… lies.",
        ) from error
