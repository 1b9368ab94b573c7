"""Promises and polls as a profile has them: its ids, its "not yet", its failures, its results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import define, field
from starlette.responses import PlainTextResponse, Response

from tinkex_server.access.ownership import Access
from tinkex_server.errors import Refused, malformed, not_found
from tinkex_server.jobs.futures import PollAnswer
from tinkex_server.profiles.profile import Profile
from tinkex_server.profiles.results import shaped
from tinkex_server.profiles.templates import Reply
from tinkex_server.state import ServerState
from tinkex_server.wire import protobuf
from tinkex_server.wire.json import encode
from tinkex_server.wire.responses import json_response

_LONG = 60.0  # seconds
_PATH_RESULTS = frozenset({"save_weights", "save_weights_for_sampler", "load_weights"})


def respond(reply: Reply) -> Response:
    if isinstance(reply.body, str):
        return PlainTextResponse(reply.body, reply.status, reply.headers)
    return json_response(reply.status, reply.body, reply.headers)


@define(eq=False)
class Polls:
    """The futures of a server as its clients see them."""

    state: ServerState
    profile: Profile
    _foretold: dict[str, Reply] = field(factory=dict[str, Reply])
    _aliases: dict[str, str] = field(factory=dict[str, str])
    _delivered_at: dict[str, float] = field(factory=dict[str, float])

    @property
    def _all(self) -> Access:
        return Access(self.state.store, None)

    def foretell(self, reply: Reply) -> str:
        """The request id of a future whose answer is known."""
        request_id = self.state.ids.new_request()
        self._foretold[request_id] = reply
        return request_id

    def alias(self, given_out: str, request_id: str) -> None:
        """Makes an id that was given out stand for a request's own."""
        self._aliases[given_out] = request_id

    async def poll(self, fields: Mapping[str, Any], accept: str) -> Response:
        """Raises `Refused` for an unknown id, on servers that refuse it."""
        given = fields.get("request_id")
        if not isinstance(given, str):
            raise malformed("request_id", message="must be a string")
        if reply := self._foretold.get(given):
            return respond(reply)
        request_id = self._aliases.get(given, given)
        if self._is_forgotten(request_id):
            return await self._unknown(given)
        row = self.state.store.futures.get(request_id)
        if row is None:
            return await self._unknown(given)
        outcome = await self.state.futures.wait(request_id, self._all)
        if outcome.status == 408 or (row.state == "pending" and self.profile.pending_once_more):
            return self._pending(given, outcome)
        return self._ended(request_id, outcome, fields, accept)

    async def work_out(self, request_id: str) -> Reply | None:
        """Returns when the work is done: the failure, if it is one."""
        outcome = await self._done(request_id)
        return None if outcome.result_of else self._failure(outcome)

    async def worked_out(self, request_id: str) -> dict[str, Any]:
        """The fields of a result, when it is there. Raises `Refused` for a failure."""
        outcome = await self._done(request_id)
        if outcome.result_of is None:
            raise Refused(400, orjson.loads(outcome.body)["error"])
        return protobuf.result_fields(outcome.result_of, outcome.body)

    async def _done(self, request_id: str) -> PollAnswer:
        while (
            outcome := await self.state.futures.wait(request_id, self._all, hold=_LONG)
        ).status == 408:
            pass
        return outcome

    def _is_forgotten(self, request_id: str) -> bool:
        kept, at = self.profile.kept_after_delivery, self._delivered_at.get(request_id)
        return kept is not None and at is not None and time.monotonic() - at >= kept

    async def _unknown(self, request_id: str) -> Response:
        if self.profile.unknown is None:
            raise not_found("Future not found")
        if isinstance(self.profile.unknown, Reply):
            return respond(self.profile.unknown.filled({"request_id": request_id}))
        await self.state.futures.wait_in_vain()
        return self._pending(request_id, None)

    def _pending(self, request_id: str, outcome: PollAnswer | None) -> Response:
        reply = self.profile.pending
        if reply is not None:
            return respond(reply.filled({"request_id": request_id}))
        if outcome is not None:
            return Response(outcome.body, outcome.status, media_type=outcome.media_type)
        return json_response(
            408, {"type": "try_again", "request_id": request_id, "queue_state": "active"}
        )

    def _ended(
        self, request_id: str, outcome: PollAnswer, fields: Mapping[str, Any], accept: str
    ) -> Response:
        if outcome.result_of is None:
            response = respond(self._failure(outcome))
        else:
            response = self._result(outcome.result_of, outcome.body, accept)
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

    def _failure(self, outcome: PollAnswer) -> Reply:
        failure = orjson.loads(outcome.body)
        reply = self.profile.failed.get(failure["category"]) or self.profile.failed.get("user")
        return reply.filled(failure) if reply else Reply(outcome.status, failure)

    def _result(self, kind: str, body: bytes, accept: str) -> Response:
        result = shaped(self.profile, kind, protobuf.result_fields(kind, body))
        if kind in _PATH_RESULTS:
            result = self.profile.paths.outward(result, self.state.data_dir)
        message = protobuf.write_result(kind, result) if self._wants_protobuf(accept) else None
        if message is None:
            return Response(encode(result), media_type="application/json")
        return Response(message, media_type=protobuf.MEDIA_TYPE)

    def _wants_protobuf(self, accept: str) -> bool:
        rule = self.profile.results_as
        return rule == "protobuf" or (rule == "as accepted" and protobuf.MEDIA_TYPE in accept)
