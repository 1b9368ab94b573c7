"""Waiting for a result, and giving one up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinkex_api.models import FutureCancelRequest, FutureRetrieveRequest

from tinkex.local.backend import Backend
from tinkex.local.futures import Outcome
from tinkex.local.http import Call, post


async def retrieve_future(backend: Backend, call: Call[FutureRetrieveRequest]) -> Outcome:
    return await backend.futures.wait(call.body.request_id)


async def cancel_future(backend: Backend, call: Call[FutureCancelRequest]) -> Mapping[str, Any]:
    backend.futures.cancel(call.body.request_id)
    return {}


ROUTES = [
    post("/retrieve_future", FutureRetrieveRequest, retrieve_future),
    post("/cancel_future", FutureCancelRequest, cancel_future),
]
