"""What a refusal asks to be sent otherwise: another form of the key, or fewer fields. Plain values:
no I/O here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
import orjson
from attrs import evolve, field, frozen
from tinkex_api.types import Request

from tinkex.config.secrets import Secret
from tinkex.dialects import unknown_fields
from tinkex.dialects.dialect import Dialect

T = TypeVar("T")
STATUSES = frozenset({401, 403, 422})


@frozen
class Adapted:
    """The request in another form, and what is known of the server if it takes that."""

    request: Request[Any]
    learned: Mapping[str, Any]
    words: str
    headers: Mapping[str, str] = field(factory=dict[str, str])


def adapt(
    request: Request[Any], refusal: httpx.Response, dialect: Dialect, api_key: str | None
) -> Adapted | None:
    """Another form of a request that was refused with one of `STATUSES`, before anything was taken
    on; None if there is none.
    """
    if refusal.status_code == 422:
        return _with_fewer_fields(request, refusal, dialect)
    if api_key is None or dialect.bearer or dialect.exchanges_keys:
        return None
    return Adapted(
        request, {"bearer": True}, "it wants the key as Authorization: Bearer", bearer(api_key)
    )


def bearer(api_key: str | None) -> Mapping[str, str]:
    return {"Authorization": Secret(f"Bearer {api_key}")} if api_key else {}


def less(request: Request[T], names: frozenset[str]) -> Request[T]:
    """The request without those of these fields whose values say nothing."""
    if not names or request.headers.get("Content-Type") != "application/json":
        return request
    body = orjson.loads(request.content or b"{}")
    return _with_body(request, unknown_fields.without(body, names & body.keys()) or body)


def _with_fewer_fields(
    request: Request[Any], refusal: httpx.Response, dialect: Dialect
) -> Adapted | None:
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
    learned = {**known, request.operation: known.get(request.operation, frozenset[str]()) | names}
    words = (
        f"{request.operation} is sent without {', '.join(sorted(names))}, which it does not know"
    )
    return Adapted(_with_body(request, smaller), {"refused_fields": learned}, words)


def _with_body(request: Request[T], body: Mapping[str, Any]) -> Request[T]:
    kwargs = {
        "method": request.method,
        "url": request.path,
        "params": request.params,
        "headers": request.headers,
    }
    return evolve(request, kwargs={**kwargs, "content": orjson.dumps(body)})
