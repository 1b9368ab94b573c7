"""The routes of sampling sessions and samples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from attrs import evolve
from tinkex_api.models import (
    CreateSamplingSessionRequest,
    CreateSamplingSessionResponse,
    GetSamplerResponse,
    JoinSamplingSessionRequest,
    JoinSamplingSessionResponse,
    SampleRequest,
)

from tinkex_server.access.ownership import Access
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.routes.support.sample_requests import (
    id_of_new_sampler,
    submit_sample,
    used_for_others,
)
from tinkex_server.rules.sampling import (
    checked_spec,
    new_sampler,
    note_usage,
    prepare_stream,
    shared_sampler,
)
from tinkex_server.state import ServerState
from tinkex_server.store import SamplerRow
from tinkex_server.wire.events import EventStream
from tinkex_server.wire.results import encode_sample
from tinkex_server.wire.sampling_requests import check_streamed


async def create_sampling_session(
    state: ServerState, call: Call[CreateSamplingSessionRequest]
) -> Mapping[str, Any]:
    body = call.body
    sampler_id = id_of_new_sampler(state, call)
    wanted = new_sampler(
        state, call.access, sampler_id, body.session_id, body.base_model, body.model_path
    )
    known = state.store.samplers.get(sampler_id)
    if known is None:
        call.access.open_session(body.session_id)
        state.store.samplers.add(wanted, time.time())
    elif known != evolve(wanted, owner=known.owner):
        raise used_for_others(call)
    return CreateSamplingSessionResponse(sampler_id, type="create_sampling_session").to_dict()


async def get_sampler(state: ServerState, call: Call[None]) -> Mapping[str, Any]:
    row = call.access.sampler(call.path["sampler_id"])
    return GetSamplerResponse(row.sampler_id, row.base_model, row.model_path).to_dict()


async def join_sampling_session(
    state: ServerState, call: Call[JoinSamplingSessionRequest]
) -> Mapping[str, Any]:
    sampler = call.access.sampler(call.body.sampling_session_id)
    return JoinSamplingSessionResponse(
        state.store.samplers.number_copy(sampler.sampler_id)
    ).to_dict()


async def sample(state: ServerState, call: Call[SampleRequest]) -> Mapping[str, Any]:
    sampler = _sampler_of(state, call.access, call.body)
    return submit_sample(
        state, call, sampler, lambda identity: _submit(state, sampler, identity, call.body)
    )


def _submit(
    state: ServerState, sampler: SamplerRow, identity: RequestIdentity, body: SampleRequest
) -> str:
    spec = checked_spec(state, sampler, body)

    async def work() -> bytes:
        await state.samplers.load(sampler)
        begun = state.engine.sample(sampler.weights_id, spec)
        # a future that is done is not awaited, which would take a round of the event loop
        result = begun.result() if begun.done() else await asyncio.wrap_future(begun)
        note_usage(state, identity.owner, sampler, spec, result)
        return encode_sample(result, body.target_prompt_logprobs)

    return state.futures.start(identity, work)


async def sample_stream(state: ServerState, call: Call[SampleRequest]) -> EventStream:
    sampler = _sampler_of(state, call.access, call.body)
    spec = checked_spec(state, sampler, call.body)
    check_streamed(call.body)
    identity = call.identify(sampler.sampler_id, None, "sample_stream")
    return EventStream(await prepare_stream(state, sampler, spec, identity))


def _sampler_of(state: ServerState, access: Access, body: SampleRequest) -> SamplerRow:
    """Returns the sampler of the sampling session, or one that all requests for the same weights
    without a session share.
    """
    if isinstance(body.sampling_session_id, str):
        return access.sampler(body.sampling_session_id)
    return shared_sampler(state, access, body.base_model, body.model_path)


ROUTES = [
    post("/create_sampling_session", CreateSamplingSessionRequest, create_sampling_session),
    get("/samplers/{sampler_id:path}", get_sampler),
    post("/join_sampling_session", JoinSamplingSessionRequest, join_sampling_session),
    post("/asample", SampleRequest, sample),
    post("/asample_stream", SampleRequest, sample_stream),
]
