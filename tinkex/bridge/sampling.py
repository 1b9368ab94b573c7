"""The bridge's routes of sampling sessions and samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from attrs import evolve
from tinkex_api.models import (
    CreateSamplingSessionRequest,
    CreateSamplingSessionResponse,
    GetSamplerResponse,
    JoinSamplingSessionRequest,
    SampleRequest,
)

from tinkex.bridge import sample_results, values
from tinkex.bridge.failures import or_failure, refusing
from tinkex.bridge.state import BridgeState, OpenSampler
from tinkex.bridge.upstream import Upstream
from tinkex.errors import NotFoundError, UnsupportedByServer
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.types import SampleResponse
from tinkex_server.access.ownership import Access
from tinkex_server.errors import Refused, malformed, not_found
from tinkex_server.jobs.requests import RequestIdentity, WorkFailed
from tinkex_server.routes.sampling import join_sampling_session
from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.routes.support.sample_requests import (
    id_of_new_sampler,
    submit_sample,
    used_for_others,
)
from tinkex_server.store import SamplerRow, SessionRow, UsageKind
from tinkex_server.wire.refusals import status_of

_WITHOUT_SESSION = SessionRow("", [], {}, "", None, None, 0.0)
"""Stands for the session of all samples that are asked for without one."""


async def create_sampling_session(
    state: BridgeState, call: Call[CreateSamplingSessionRequest]
) -> Mapping[str, Any]:
    body = call.body
    sampler_id = id_of_new_sampler(state, call)
    wanted = SamplerRow(
        sampler_id, body.session_id, body.base_model or "", body.model_path or None, None
    )
    known = state.store.samplers.get(sampler_id)
    if known is None:
        session = call.access.open_session(body.session_id)
        opened = await _opened(state, call.access, session, wanted)
        state.samplers[sampler_id] = opened
        base_model = wanted.base_model or await _base_model(opened.client)
        state.store.samplers.add(evolve(wanted, base_model=base_model), time.time())
    elif known.model_path != wanted.model_path or wanted.base_model not in ("", known.base_model):
        raise used_for_others(call)
    return CreateSamplingSessionResponse(sampler_id, type="create_sampling_session").to_dict()


async def _opened(
    state: BridgeState, access: Access, session: SessionRow, sampler: SamplerRow
) -> OpenSampler:
    """Opens a sampling session on the server that has the weights. Raises `Refused`."""
    upstream, base_model, path = _weights(state, access, sampler)
    async with refusing(upstream.url):
        client = await upstream.in_session(
            session,
            lambda begun: AsyncSamplingClient.open(begun, base_model=base_model, model_path=path),
        )
    return OpenSampler(client, upstream.url)


def _weights(
    state: BridgeState, access: Access, sampler: SamplerRow
) -> tuple[Upstream, str | None, str | None]:
    """Returns the server, the base model and the server's path of the weights of a sampler."""
    base_model = sampler.base_model or None
    if sampler.model_path is None:
        if base_model is None:
            raise malformed("model_path", message="must be given, or base_model")
        return state.upstreams.for_model(base_model), base_model, None
    where, row = state.checkpoint(access, sampler.model_path)
    if row is not None:
        return state.server_of(where), base_model or state.run_of(row).base_model, where.path
    upstream = state.upstreams.for_model(base_model) if base_model else state.upstreams.default
    return upstream, base_model, where.path


async def _base_model(client: AsyncSamplingClient) -> str:
    """Returns the base model of a sampler; an empty text if the server does not tell."""
    try:
        return await client.get_base_model()
    except (NotFoundError, UnsupportedByServer):
        return ""


async def get_sampler(state: BridgeState, call: Call[None]) -> Mapping[str, Any]:
    row = call.access.sampler(call.path["sampler_id"])
    if not row.base_model:
        raise not_found(
            f"the base model of {row.model_path} is not known: the server behind the bridge does "
            "not tell it; give base_model together with model_path"
        )
    return GetSamplerResponse(row.sampler_id, row.base_model, row.model_path).to_dict()


async def sample(state: BridgeState, call: Call[SampleRequest]) -> Mapping[str, Any]:
    sampler = sampler_of(call.access, call.body)
    return submit_sample(
        state,
        call,
        sampler,
        lambda identity: _submit(state, call.access, sampler, identity, call.body),
    )


def sampler_of(access: Access, body: SampleRequest) -> SamplerRow:
    """Returns the sampler of the sampling session, or one that all requests for the same weights
    without a session share.
    """
    if isinstance(body.sampling_session_id, str):
        return access.sampler(body.sampling_session_id)
    name = f"{body.model_path or ''} {body.base_model or ''}"
    return SamplerRow(name, "", body.base_model or "", body.model_path or None, None)


def _submit(
    state: BridgeState,
    access: Access,
    sampler: SamplerRow,
    identity: RequestIdentity,
    body: SampleRequest,
) -> str:
    async def work() -> bytes:
        opened = await opened_sampler(state, access, sampler)
        response = await or_failure(opened.url, lambda: _sampled(opened.client, body))
        note_usage(state, sampler, body, sum(len(each.tokens_np) for each in response.sequences))
        return sample_results.encode(response)

    return state.futures.start(identity, work)


async def opened_sampler(state: BridgeState, access: Access, sampler: SamplerRow) -> OpenSampler:
    """Returns the sampling session on the server, and opens it if needed. Raises `WorkFailed`."""
    return state.samplers.get(sampler.sampler_id) or await _reopened(state, access, sampler)


async def _reopened(state: BridgeState, access: Access, sampler: SamplerRow) -> OpenSampler:
    """Opens a sampling session again that this process has not opened. Raises `WorkFailed`."""
    if not state.resumed.is_set():
        await state.resumed.wait()
    if sampler.inflight_of:
        return _resumed(state, sampler)
    session = state.session(sampler.session_id) if sampler.session_id else _WITHOUT_SESSION
    try:
        opened = await _opened(state, access, session, sampler)
    except Refused as error:
        raise WorkFailed(
            str(error.detail), "user" if status_of(error) < 500 else "server"
        ) from error
    return state.samplers.setdefault(sampler.sampler_id, opened)


def _resumed(state: BridgeState, sampler: SamplerRow) -> OpenSampler:
    """Returns the sampling session of weights that an earlier process had saved for it."""
    entry = state.journal.sampler(sampler.sampler_id)
    upstream = state.upstreams.at_url(entry.url) if entry else None
    session = upstream.session_at(entry.upstream_session) if entry and upstream else None
    if entry is None or session is None:
        raise WorkFailed(
            f"the weights of sampling session {sampler.sampler_id!r} were lost when the bridge was "
            "restarted: save them again",
            "server",
        )
    client = AsyncSamplingClient(
        session, entry.upstream_id, base_model=sampler.base_model, is_copy=True
    )
    return state.samplers.setdefault(sampler.sampler_id, OpenSampler(client, entry.url))


def _sampled(client: AsyncSamplingClient, body: SampleRequest) -> AsyncAPIFuture[SampleResponse]:
    targets = body.target_prompt_logprobs
    return client.sample(
        values.model_input(body.prompt),
        body.num_samples,
        body.sampling_params,
        body.prompt_logprobs,
        body.topk_prompt_logprobs,
        body.topk_sample_logprobs or 0,
        None if targets is None else values.tensor("target_prompt_logprobs", targets),
        body.prompt_alt_tokens_k or 0,
        body.prompt_logprobs_last_n,
    )


def note_usage(state: BridgeState, sampler: SamplerRow, body: SampleRequest, sampled: int) -> None:
    """Adds the tokens to the usage of the session, those of the prompt once for all samples."""
    if not sampler.session_id:
        return
    amounts: Mapping[UsageKind, int] = {
        "sampling_prefill": sum(len(chunk.tokens or ()) for chunk in body.prompt.chunks),
        "sampling_sample": sampled,
    }
    state.store.usage.add(
        sampler.owner, sampler.session_id, sampler.base_model, amounts, time.time()
    )


ROUTES = [
    post("/create_sampling_session", CreateSamplingSessionRequest, create_sampling_session),
    get("/samplers/{sampler_id:path}", get_sampler),
    post("/join_sampling_session", JoinSamplingSessionRequest, join_sampling_session),
    post("/asample", SampleRequest, sample),
]
