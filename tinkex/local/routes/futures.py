"""Waiting for a result, and giving one up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve
from tinkex_api.models import FutureCancelRequest, FutureRetrieveRequest

from tinkex.local import protobuf
from tinkex.local.backend import Backend
from tinkex.local.futures import Outcome
from tinkex.local.http import Call, post


async def retrieve_future(backend: Backend, call: Call[FutureRetrieveRequest]) -> Outcome:
    """Finished batches and samples come as protobuf to those who read it."""
    outcome = await backend.futures.wait(call.body.request_id)
    if outcome.result_of and protobuf.MEDIA_TYPE in call.accept:
        message = protobuf.write_result(outcome.result_of, outcome.body)
        return evolve(outcome, body=message, media_type=protobuf.MEDIA_TYPE) if message is not None else outcome
    return outcome


async def cancel_future(backend: Backend, call: Call[FutureCancelRequest]) -> Mapping[str, Any]:
    backend.futures.cancel(call.body.request_id)
    return {}


ROUTES = [
    post("/retrieve_future", FutureRetrieveRequest, retrieve_future),
    post("/cancel_future", FutureCancelRequest, cancel_future),
]
