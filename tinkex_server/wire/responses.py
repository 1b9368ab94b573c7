"""Answers in JSON, each with its length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tinkex_server.wire.json import encode


def json_response(
    status: int, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(encode(body), status, headers, media_type="application/json")


async def refuse_route(request: Request, error: Exception) -> Response:
    """The answer for a path or a method that there is not."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "no such route", 405: "no such method here"}
    return json_response(
        status, {"detail": f"{words.get(status, 'refused')}: {request.method} {request.url.path}"}
    )
