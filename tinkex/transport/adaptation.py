"""Adapts a refused request to its server: another form of the key, or fewer fields. Plain values:
no I/O here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from attrs import evolve, field, frozen
from tinkex_api.types import Request

from tinkex.config.secrets import Secret
from tinkex.dialects import unknown_fields
from tinkex.dialects.dialect import Dialect
from tinkex.transport.port import Answer

T = TypeVar("T")
STATUSES = frozenset({401, 403, 422})


@frozen
class AdaptedRequest:
    """A request in another form, and what its success would say about the server."""

    request: Request[Any]
    dialect_changes: Mapping[str, Any]
    """Fields of the dialect to update once the server has accepted this form."""
    description: str
    """A sentence for the log."""
    headers: Mapping[str, str] = field(factory=dict[str, str])


def adapt(
    request: Request[Any], refusal: Answer, dialect: Dialect, api_key: str | None
) -> AdaptedRequest | None:
    """Returns another form of a request that was refused with one of `STATUSES`.

    None if there is no other form. Such a refusal means that the server has done nothing.
    """
    if refusal.status_code == 422:
        return _with_fewer_fields(request, refusal, dialect)
    if api_key is None or dialect.bearer or dialect.exchanges_keys:
        return None
    return AdaptedRequest(
        request,
        {"bearer": True},
        "the server wants the key as Authorization: Bearer",
        bearer(api_key),
    )


def bearer(api_key: str | None) -> Mapping[str, str]:
    return {"Authorization": Secret(f"Bearer {api_key}")} if api_key else {}


def without_fields(request: Request[T], names: frozenset[str]) -> Request[T]:
    """Returns the request without the named fields, except those whose values matter."""
    if not names or request.headers.get("Content-Type") != "application/json":
        return request
    body = orjson.loads(request.content or b"{}")
    return _with_body(request, unknown_fields.without(body, names & body.keys()) or body)


def _with_fewer_fields(
    request: Request[Any], refusal: Answer, dialect: Dialect
) -> AdaptedRequest | None:
    try:
        body, problems = orjson.loads(request.content or b""), orjson.loads(refusal.content)
    except orjson.JSONDecodeError:
        return None
    detail = problems.get("detail") if isinstance(problems, dict) else None  # pyright: ignore
    names = unknown_fields.refused_fields(detail)
    smaller = unknown_fields.without(body, names)
    if smaller is None:
        return None
    known = dialect.refused_fields
    refused = {**known, request.operation: known.get(request.operation, frozenset[str]()) | names}
    description = (
        f"{request.operation} is sent without {', '.join(sorted(names))}, which the server does "
        "not know"
    )
    return AdaptedRequest(_with_body(request, smaller), {"refused_fields": refused}, description)


def _with_body(request: Request[T], body: Mapping[str, Any]) -> Request[T]:
    return evolve(request, content=orjson.dumps(body))
