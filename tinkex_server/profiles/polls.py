"""`Polls`: answers polls as a profile's server does: "not yet", failures and results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import define, field
from starlette.responses import PlainTextResponse, Response

from tinkex_server.access.ownership import Access
from tinkex_server.errors import malformed, not_found
from tinkex_server.jobs.poll_answers import PollAnswer, UnknownRequest
from tinkex_server.profiles.profile import Profile
from tinkex_server.profiles.results import shape_result
from tinkex_server.profiles.templates import Reply
from tinkex_server.state import ServerState
from tinkex_server.wire import protobuf
from tinkex_server.wire.json import encode
from tinkex_server.wire.refusals import RefusedWithStatus
from tinkex_server.wire.responses import json_response

_LONG = 60.0  # seconds
_RESULTS_WITH_PATHS = frozenset({"save_weights", "save_weights_for_sampler", "load_weights"})


def respond(reply: Reply) -> Response:
    """Returns a reply as text or as JSON."""
    if isinstance(reply.body, str):
        return PlainTextResponse(reply.body, reply.status, reply.headers)
    return json_response(reply.status, reply.body, reply.headers)


@define(eq=False)
class Polls:
    """The futures of an imitated server."""

    state: ServerState
    profile: Profile
    _known: dict[str, Reply] = field(factory=dict[str, Reply])
    _aliases: dict[str, str] = field(factory=dict[str, str])
    _delivered_at: dict[str, float] = field(factory=dict[str, float])

    @property
    def _access(self) -> Access:
        return Access(self.state.store, None)

    def add_known(self, reply: Reply) -> str:
        """Adds a future whose reply is already known; returns its request id."""
        request_id = self.state.ids.new_request()
        self._known[request_id] = reply
        return request_id

    def alias(self, given_out: str, request_id: str) -> None:
        """Makes the id that the client got stand for the request's own."""
        self._aliases[given_out] = request_id

    async def poll(self, fields: Mapping[str, Any], accept: str) -> Response:
        """Answers one poll. Raises `Refused` for an unknown id, on servers that refuse it."""
        given = fields.get("request_id")
        if not isinstance(given, str):
            raise malformed("request_id", message="must be a string")
        if reply := self._known.get(given):
            return respond(reply)
        request_id = self._aliases.get(given, given)
        if self._is_forgotten(request_id):
            return await self._unknown(given)
        was_pending = self.state.futures.is_pending(request_id)
        try:
            answer = await self.state.futures.wait(request_id, self._access)
        except UnknownRequest:
            return await self._unknown(given)
        if answer.status == 408 or (was_pending and self.profile.pending_once_more):
            return self._pending(given, answer)
        return self._ended(request_id, answer, fields, accept)

    async def wait_for_failure(self, request_id: str) -> Reply | None:
        """Waits until the work is done; returns its failure, if it failed."""
        answer = await self._wait(request_id)
        return None if answer.result_of else self._failure(answer)

    async def wait_for_result(self, request_id: str) -> dict[str, Any]:
        """Waits for a result, and returns its fields. Raises `Refused` for a failure."""
        answer = await self._wait(request_id)
        if answer.result_of is None:
            raise RefusedWithStatus(400, orjson.loads(answer.body)["error"])
        return protobuf.result_fields(answer.result_of, answer.body)

    async def _wait(self, request_id: str) -> PollAnswer:
        while True:
            answer = await self.state.futures.wait(request_id, self._access, hold=_LONG)
            if answer.status != 408:
                return answer

    def _is_forgotten(self, request_id: str) -> bool:
        kept, at = self.profile.kept_after_delivery, self._delivered_at.get(request_id)
        return kept is not None and at is not None and time.monotonic() - at >= kept

    async def _unknown(self, request_id: str) -> Response:
        if self.profile.unknown is None:
            raise not_found("Future not found")
        if isinstance(self.profile.unknown, Reply):
            return respond(self.profile.unknown.filled({"request_id": request_id}))
        await self.state.futures.wait_without_result()
        return self._pending(request_id, None)

    def _pending(self, request_id: str, answer: PollAnswer | None) -> Response:
        reply = self.profile.pending
        if reply is not None:
            return respond(reply.filled({"request_id": request_id}))
        if answer is not None:
            return Response(answer.body, answer.status, media_type=answer.media_type)
        return json_response(
            408, {"type": "try_again", "request_id": request_id, "queue_state": "active"}
        )

    def _ended(
        self, request_id: str, answer: PollAnswer, fields: Mapping[str, Any], accept: str
    ) -> Response:
        if answer.result_of is None:
            response = respond(self._failure(answer))
        else:
            response = self._result(answer.result_of, answer.body, accept)
            limit = self.profile.metadata_above
            if (
                limit is not None
                and fields.get("allow_metadata_only")
                and len(response.body) > limit
            ):
                return json_response(
                    200,
                    {"status": "complete_metadata", "response_payload_size": len(response.body)},
                )
        self._delivered_at.setdefault(request_id, time.monotonic())
        return response

    def _failure(self, answer: PollAnswer) -> Reply:
        failure = orjson.loads(answer.body)
        reply = self.profile.failed.get(failure["category"]) or self.profile.failed.get("user")
        return reply.filled(failure) if reply else Reply(answer.status, failure)

    def _result(self, kind: str, body: bytes, accept: str) -> Response:
        result = shape_result(self.profile, kind, protobuf.result_fields(kind, body))
        if kind in _RESULTS_WITH_PATHS:
            result = self.profile.paths.outward(result, self.state.data_dir)
        message = protobuf.write_result(kind, result) if self._wants_protobuf(accept) else None
        if message is None:
            return Response(encode(result), media_type="application/json")
        return Response(message, media_type=protobuf.MEDIA_TYPE)

    def _wants_protobuf(self, accept: str) -> bool:
        rule = self.profile.results_as
        return rule == "protobuf" or (rule == "as accepted" and protobuf.MEDIA_TYPE in accept)
