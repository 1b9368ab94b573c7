"""`Endpoint`: calls the handler of a route with what the request holds, and answers with what the
handler returns or raises, as JSON with a Content-Length.
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
from tinkex_server.errors import Reason, Refused, bad_request
from tinkex_server.jobs.poll_answers import PollAnswer
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.routes.support.refusals import note_refusal
from tinkex_server.state import CommonState
from tinkex_server.store import StoreWriteError
from tinkex_server.wire import bodies
from tinkex_server.wire.body_copy import BodyCopy
from tinkex_server.wire.events import EventStream
from tinkex_server.wire.protobuf import MEDIA_TYPE
from tinkex_server.wire.raw_body import read_body
from tinkex_server.wire.refusals import refusal_response
from tinkex_server.wire.responses import json_response
from tinkex_server.wire.scope import OWNER, PREFIX, STATE

logger = logging.getLogger("tinkex.local")

T = TypeVar("T")

_LARGE = 64 * 1024  # bytes; a longer body is parsed in a thread, not to hold up the event loop


@frozen
class Call(Generic[T]):
    """A request as its handler gets it: the body as the contract's type, the URL, and the access of
    its sender.
    """

    body: T
    fingerprint: str
    scope: Scope
    headers: Mapping[str, str]
    access: Access
    arrived_at: float
    """The time at which the headers arrived, on the monotonic clock; a large body arrives later."""
    receive: Receive
    """The source of the body, for a handler that reads the body itself."""

    def identify(self, scope: str, seq_id: int | None, kind: str) -> RequestIdentity:
        """Returns the values by which a repeat of the request is recognized."""
        return RequestIdentity(scope, seq_id, kind, self.fingerprint, self.access.new_owner)

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
    def is_local(self) -> bool:
        """Whether the request was sent from this machine."""
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
        """The scheme and host by which the caller reached this server."""
        return f"{self.scope['scheme']}://{self.headers.get('host', '')}"


Parse: TypeAlias = Callable[[bytes], dict[str, Any]]
"""A function that returns the fields of a body. It raises `Refused` for malformed bytes."""
Read: TypeAlias = Callable[[bytes], tuple[T, str]]
"""A function that returns a body as the contract's type, and its fingerprint."""
Result: TypeAlias = Mapping[str, Any] | PollAnswer | EventStream | Response
Handler: TypeAlias = Callable[[Any, Call[T]], Awaitable[Result]]
"""A function that answers a request, given the state of the server and the request."""


def post(
    path: str,
    kind: type[T],
    handler: Handler[T],
    *,
    defaults: Mapping[str, Any] | None = None,
    protobuf: Parse | None = None,
    refused: str = "",
) -> Route:
    """Makes the route of a POST whose body is of the generated type `kind`.

    Args:
        defaults: values for required fields that older clients leave out.
        protobuf: parses the protobuf form of the body, if it has one.
        refused: a text to add to the refusal of a body that is not of this type.
    """
    parsers = {
        "application/json": bodies.parse_object,
        **({MEDIA_TYPE: protobuf} if protobuf else {}),
    }
    readers = {
        media_type: partial(_read, kind, parse, defaults or {}, refused)
        for media_type, parse in parsers.items()
    }
    has_seq_id = attrs.has(kind) and {"model_id", "seq_id"} <= attrs.fields_dict(kind).keys()
    return _route("POST", path, handler, readers, has_seq_id=has_seq_id)


def put(path: str, kind: type[T], handler: Handler[T]) -> Route:
    return _route(
        "PUT",
        path,
        handler,
        {"application/json": partial(_read, kind, bodies.parse_object, {}, "")},
    )


def put_bytes(path: str, handler: Handler[None]) -> Route:
    """Makes the route of a PUT whose handler reads the body by `Call.receive`."""
    return _route("PUT", path, handler, {})


def post_nothing(path: str, handler: Handler[None]) -> Route:
    """Makes the route of a POST without a body."""
    return _route("POST", path, handler, {})


def get(path: str, handler: Handler[None]) -> Route:
    """Makes the route of a GET, and of a HEAD, of whose answer uvicorn omits the body."""
    return _route("GET", path, handler, {})


def delete(path: str, handler: Handler[None]) -> Route:
    return _route("DELETE", path, handler, {})


def _route(
    method: str,
    path: str,
    handler: Handler[Any],
    readers: Mapping[str, Read[Any]],
    *,
    has_seq_id: bool = False,
) -> Route:
    return Route(PREFIX + path, Endpoint(handler, readers, has_seq_id), methods=[method])


def _read(
    kind: type[T], parse: Parse, defaults: Mapping[str, Any], refused: str, raw: bytes
) -> tuple[T, str]:
    fields = {**defaults, **parse(raw)}
    try:
        return bodies.read(kind, fields), bodies.fingerprint(fields)
    except Refused as refusal:
        refusal.fields = fields
        refusal.append(refused)
        raise


@frozen(eq=False)
class Endpoint:
    """The ASGI application of one route. It answers its own errors."""

    _handler: Handler[Any]
    _readers: Mapping[str, Read[Any]]
    """The readers of the body, by media type; none for a route without a body."""
    _has_seq_id: bool
    """Whether the body has a model_id and a seq_id."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._respond(scope, receive)
        except Refused as refusal:
            response = refusal_response(refusal)
        except InvalidRequest as error:
            response = refusal_response(bad_request(str(error)))
        except (StoreWriteError, DataDirReplaced) as error:
            response = refusal_response(Refused(Reason.STORAGE_FULL, str(error)))
        # an error that reached uvicorn would close the connection, and fail the next request on it
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            response = refusal_response(
                Refused(Reason.SERVER_FAULT, "internal error of the server; see its log")
            )
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        arrived_at = time.monotonic()
        state: CommonState = scope[STATE]
        access = Access(state.store, scope.get(OWNER))
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        body: Any = None
        try:
            body, fingerprint = await self._read_body(state, access, headers, receive)
            call = Call(body, fingerprint, scope, headers, access, arrived_at, receive)
            result = await self._handler(state, call)
        except (Refused, InvalidRequest) as error:
            if scope["method"] != "GET":
                note_refusal(state, access, scope["path"], body, error)
            raise
        await state.store.flush()
        return _response(result)

    async def _read_body(
        self, state: CommonState, access: Access, headers: Mapping[str, str], receive: Receive
    ) -> tuple[Any, str]:
        """Returns the body and its fingerprint. When the body is refused, the turn of its seq_id is
        skipped.
        """
        if not self._readers:
            return None, ""
        most = state.limits.body_bytes
        if not self._has_seq_id:
            return await self._read_from(headers, receive, most)
        body_copy = BodyCopy(receive, most)
        try:
            return await self._read_from(headers, body_copy.receive, most)
        except Refused as refusal:
            fields = refusal.fields or await body_copy.fields(headers)
            state.refused_seq_ids.note_unread(access, refusal, fields)
            raise

    async def _read_from(
        self, headers: Mapping[str, str], receive: Receive, most: int
    ) -> tuple[Any, str]:
        read = self._reader(headers)
        raw = await read_body(headers, receive, most)
        return await asyncio.to_thread(read, raw) if len(raw) > _LARGE else read(raw)

    def _reader(self, headers: Mapping[str, str]) -> Read[Any]:
        content_type = headers.get("content-type", "application/json").partition(";")[0].strip()
        if content_type not in self._readers:
            known = " or ".join(self._readers)
            raise Refused(
                Reason.UNSUPPORTED_MEDIA_TYPE, f"the body must be {known}, not {content_type}"
            )
        return self._readers[content_type]


def _response(result: Result) -> Response:
    if isinstance(result, Response):
        return result
    if isinstance(result, PollAnswer):
        return Response(result.body, result.status, media_type=result.media_type)
    if isinstance(result, EventStream):
        return StreamingResponse(
            result.read(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )
    return json_response(200, result)
