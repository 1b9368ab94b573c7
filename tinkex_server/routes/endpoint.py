"""From a request to a handler's arguments, and from what it returns or raises to an answer: JSON,
with its length, always.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any, Generic, TypeAlias, TypeVar

import attrs
from attrs import frozen
from starlette.datastructures import QueryParams
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tinkex_server.access.ownership import Access
from tinkex_server.data_dir.folders import DataDirReplaced
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.errors import Refused
from tinkex_server.jobs.futures import Outcome
from tinkex_server.state import ServerState
from tinkex_server.store import StoreWriteError
from tinkex_server.wire import bodies
from tinkex_server.wire.body_copy import BodyCopy
from tinkex_server.wire.events import EventStream
from tinkex_server.wire.protobuf import MEDIA_TYPE
from tinkex_server.wire.raw_body import read_body
from tinkex_server.wire.responses import json_response
from tinkex_server.wire.scope import OWNER, PREFIX, STATE

logger = logging.getLogger("tinkex.local")

T = TypeVar("T")

_LARGE = 64 * 1024  # bytes; a longer body is read in a thread, so that others need not wait for it


@frozen
class Call(Generic[T]):
    """What a handler gets: the body as the contract's type, what stands in the URL, and what its
    sender may see.
    """

    body: T
    fingerprint: str
    scope: Scope
    headers: Mapping[str, str]
    access: Access
    came_at: float
    """When its first bytes were there, on the monotonic clock: a large body takes its time."""
    receive: Receive
    """Gives the body, piece by piece, to a handler that reads it itself; elsewhere it is read."""

    @property
    def method(self) -> str:
        return self.scope["method"]

    @property
    def path(self) -> Mapping[str, str]:
        return self.scope.get("path_params", {})

    @property
    def query(self) -> Mapping[str, str]:
        return QueryParams(self.scope["query_string"])

    @property
    def is_from_here(self) -> bool:
        """Whether it was sent on this machine."""
        client = self.scope.get("client")
        try:
            return client is not None and ip_address(client[0]).is_loopback
        except ValueError:
            return False

    @property
    def accept(self) -> str:
        return self.headers.get("accept", "")

    @property
    def origin(self) -> str:
        """What to put before a path to make a URL of this server, as the caller reached it."""
        return f"{self.scope['scheme']}://{self.headers.get('host', '')}"


Parse: TypeAlias = Callable[[bytes], dict[str, Any]]
"""From a body's bytes to its fields. Raises `Refused` for bytes of another form."""
Read: TypeAlias = Callable[[bytes], tuple[T, str]]
"""From a body's bytes to the contract's type and the fingerprint."""
Result: TypeAlias = Mapping[str, Any] | Outcome | EventStream | Response
Handler: TypeAlias = Callable[[ServerState, Call[T]], Awaitable[Result]]


def post(
    path: str,
    kind: type[T],
    handler: Handler[T],
    *,
    defaults: Mapping[str, Any] | None = None,
    protobuf: Parse | None = None,
    refused: str = "",
) -> Route:
    """A POST whose body is of the generated type `kind`.

    Args:
        defaults: for fields that the contract requires.
        protobuf: reads the protobuf form of the body, where it has one.
        refused: what is added to the words for a body that is not of this type.
    """
    parsers = {
        "application/json": bodies.parse_object,
        **({MEDIA_TYPE: protobuf} if protobuf else {}),
    }
    readers = {
        media_type: partial(_read, kind, parse, defaults or {}, refused)
        for media_type, parse in parsers.items()
    }
    numbered = attrs.has(kind) and {"model_id", "seq_id"} <= attrs.fields_dict(kind).keys()
    return _route("POST", path, handler, readers, numbered=numbered)


def put(path: str, kind: type[T], handler: Handler[T]) -> Route:
    return _route(
        "PUT",
        path,
        handler,
        {"application/json": partial(_read, kind, bodies.parse_object, {}, "")},
    )


def put_bytes(path: str, handler: Handler[None]) -> Route:
    """A PUT whose body, of any kind and size, the handler reads by `Call.receive`."""
    return _route("PUT", path, handler, {})


def post_nothing(path: str, handler: Handler[None]) -> Route:
    """A POST whose body, if any, is not read."""
    return _route("POST", path, handler, {})


def get(path: str, handler: Handler[None]) -> Route:
    """A GET, and a HEAD, whose answer's body uvicorn leaves out."""
    return _route("GET", path, handler, {})


def delete(path: str, handler: Handler[None]) -> Route:
    return _route("DELETE", path, handler, {})


def _route(
    method: str,
    path: str,
    handler: Handler[Any],
    readers: Mapping[str, Read[Any]],
    *,
    numbered: bool = False,
) -> Route:
    return Route(PREFIX + path, Endpoint(handler, readers, numbered), methods=[method])


def _read(
    kind: type[T], parse: Parse, defaults: Mapping[str, Any], refused: str, raw: bytes
) -> tuple[T, str]:
    fields = {**defaults, **parse(raw)}
    try:
        return bodies.read(kind, fields), bodies.fingerprint(fields)
    except Refused as refusal:
        refusal.fields = fields
        raise refusal.adding(refused) from None


@frozen(eq=False)
class Endpoint:
    """The ASGI application of one route. It answers its own errors.

    `readers`, by media type, are for the body; none where there is none. A `numbered` body has a
    model and a seq_id.
    """

    _handler: Handler[Any]
    _readers: Mapping[str, Read[Any]]
    _numbered: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._respond(scope, receive)
        except Refused as refusal:
            response = json_response(refusal.status, {"detail": refusal.detail}, refusal.headers)
        except InvalidRequest as error:
            response = json_response(400, {"detail": str(error)})
        except (StoreWriteError, DataDirReplaced) as error:
            response = json_response(507, {"detail": str(error)})
        # one that reaches uvicorn closes the connection under the client's next request
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            response = json_response(500, {"detail": "the server failed; its log says how"})
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        state: ServerState = scope[STATE]
        came_at = time.monotonic()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        access = Access(state.store, scope.get(OWNER))
        body_copy = BodyCopy(receive, state.limits.body_bytes)
        try:
            body, fingerprint = (
                await self._body(headers, body_copy.receive, state.limits.body_bytes)
                if self._readers
                else (None, "")
            )
        except Refused as refusal:
            if self._numbered:
                state.note_unread(
                    access, refusal, refusal.fields or await body_copy.fields(headers)
                )
            raise
        body_copy.forget()
        call = Call(body, fingerprint, scope, headers, access, came_at, receive)
        result = await self._handler(state, call)
        await state.store.flush()
        return _response(result)

    async def _body(
        self, headers: Mapping[str, str], receive: Receive, most: int
    ) -> tuple[Any, str]:
        content_type = headers.get("content-type", "application/json").partition(";")[0].strip()
        if content_type not in self._readers:
            raise Refused(
                415, f"this call reads {' and '.join(self._readers)}; this is {content_type}"
            )
        read, raw = self._readers[content_type], await read_body(headers, receive, most)
        return await asyncio.to_thread(read, raw) if len(raw) > _LARGE else read(raw)


def _response(result: Result) -> Response:
    if isinstance(result, Response):
        return result
    if isinstance(result, Outcome):
        return Response(result.body, result.status, media_type=result.media_type)
    if isinstance(result, EventStream):
        return StreamingResponse(
            result.read(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )
    return json_response(200, result)
