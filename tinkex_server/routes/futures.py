"""Waiting for a result, and giving one up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve
from tinkex_api.models import (
    FutureCancelRequest,
    FutureCompletion,
    FutureRetrieveRequest,
    FuturesRetrieveRequest,
    FuturesRetrieveResponse,
)

from tinkex_server.errors import malformed
from tinkex_server.jobs.futures import Outcome
from tinkex_server.routes.endpoint import Call, post
from tinkex_server.state import ServerState
from tinkex_server.store import EndedFuture
from tinkex_server.wire import protobuf
from tinkex_server.wire.json import encode
from tinkex_server.wire.protobuf import result_fields, write_result

_NUMBERS_OF_A_COPY = 1_000_000_000


async def retrieve_future(state: ServerState, call: Call[FutureRetrieveRequest]) -> Outcome:
    """Finished batches and samples come as protobuf to those who read it."""
    outcome = await state.futures.wait(call.body.request_id, call.access)
    kind, wants_message = outcome.result_of, protobuf.MEDIA_TYPE in call.accept
    if kind in protobuf.LOSSES:
        body = outcome.body if wants_message else encode(result_fields(kind, outcome.body))
        return _as_message(outcome, body) if wants_message else evolve(outcome, body=body)
    message = (
        write_result(kind, result_fields(kind, outcome.body)) if kind and wants_message else None
    )
    return _as_message(outcome, message) if message is not None else outcome


def _as_message(outcome: Outcome, message: bytes) -> Outcome:
    return evolve(outcome, body=message, media_type=protobuf.MEDIA_TYPE)


async def retrieve_futures(
    state: ServerState, call: Call[FuturesRetrieveRequest]
) -> Mapping[str, Any]:
    """Which samples of one copy of a sampling client have ended. What was acknowledged is kept all
    the same.
    """
    target = call.body.target
    if target.type != "sampling_session" or target.cloned_sampler_id < 0:
        raise malformed(
            "target", message="must be a sampling_session, and cloned_sampler_id 0 or more"
        )
    call.access.sampler(target.sampling_session_id)
    first = target.cloned_sampler_id * _NUMBERS_OF_A_COPY
    numbers = range(first, first + _NUMBERS_OF_A_COPY)
    cursor, ended = await state.futures.wait_for_any(
        target.sampling_session_id, numbers, call.body.prev_cursor, call.body.timeout
    )
    return FuturesRetrieveResponse(cursor, [_completion(row) for row in ended]).to_dict()


def _completion(row: EndedFuture) -> FutureCompletion:
    if row.state == "done":
        return FutureCompletion("finished", row.request_id, row.size)
    return FutureCompletion("failed", row.request_id)


async def cancel_future(state: ServerState, call: Call[FutureCancelRequest]) -> Mapping[str, Any]:
    state.futures.cancel(call.body.request_id, call.access)
    return {}


ROUTES = [
    post("/retrieve_future", FutureRetrieveRequest, retrieve_future),
    post("/retrieve_futures", FuturesRetrieveRequest, retrieve_futures),
    post("/cancel_future", FutureCancelRequest, cancel_future),
]
