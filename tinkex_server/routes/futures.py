"""The routes of futures: polls, for one result or for many, and cancellation."""

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
from tinkex_server.jobs.poll_answers import PollAnswer
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.state import CommonState
from tinkex_server.store import EndedFuture
from tinkex_server.wire import protobuf
from tinkex_server.wire.json import encode
from tinkex_server.wire.protobuf import result_fields, write_result

_NUMBERS_OF_A_COPY = 1_000_000_000


async def retrieve_future(state: CommonState, call: Call[FutureRetrieveRequest]) -> PollAnswer:
    """Waits for a result, and returns it as protobuf if the client accepts that."""
    answer = await state.futures.wait(call.body.request_id, call.access)
    kind, wants_message = answer.result_of, protobuf.MEDIA_TYPE in call.accept
    if kind in protobuf.LOSSES:
        if wants_message:
            return _as_message(answer, answer.body)
        return evolve(answer, body=encode(result_fields(kind, answer.body)))
    if kind and wants_message:
        message = write_result(kind, result_fields(kind, answer.body))
        return answer if message is None else _as_message(answer, message)
    return answer


def _as_message(answer: PollAnswer, message: bytes) -> PollAnswer:
    return evolve(answer, body=message, media_type=protobuf.MEDIA_TYPE)


async def retrieve_futures(
    state: CommonState, call: Call[FuturesRetrieveRequest]
) -> Mapping[str, Any]:
    """Waits for samples of one copy of a sampling client to end. The server keeps their results
    even after the client has acknowledged them.
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


async def cancel_future(state: CommonState, call: Call[FutureCancelRequest]) -> Mapping[str, Any]:
    state.futures.cancel(call.body.request_id, call.access)
    return {}


ROUTES = [
    post("/retrieve_future", FutureRetrieveRequest, retrieve_future),
    post("/retrieve_futures", FuturesRetrieveRequest, retrieve_futures),
    post("/cancel_future", FutureCancelRequest, cancel_future),
]
