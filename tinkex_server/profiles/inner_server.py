"""`InnerServer`: calls the embedded server's own application without a network."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message

from tinkex_server.wire.refusals import RefusedWithStatus


class InnerServer:
    """The embedded server's application, which must ask for no key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def call(self, request: Request, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Sends these fields as JSON, with the method of `request`; returns the fields of the
        answer.

        Raises `Refused` if the embedded server refuses.
        """
        body = (
            orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
            if request.method != "GET"
            else b""
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            # by which signed URLs are made
            *((name, value) for name, value in request.scope["headers"] if name == b"host"),
        ]
        start: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app({**request.scope, "path": path, "headers": headers}, receive, send)
        answer: dict[str, Any] = orjson.loads(b"".join(parts))
        if start["status"] >= 400:
            wait = Headers(raw=start["headers"]).get("retry-after")
            retry_after = None if wait is None else int(wait)
            raise RefusedWithStatus(start["status"], answer["detail"], retry_after=retry_after)
        return answer
