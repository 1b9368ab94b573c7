"""The routes of sampling sessions and samples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
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

from tinkex_server import checkpoint_path
from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import EngineDied, OnToken, SampleResult, SampleSpec
from tinkex_server.errors import Reason, Refused, bad_request, malformed
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.limits import check_at_most
from tinkex_server.loop_calls import call_on_loop
from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.routes.support.sample_requests import (
    id_of_new_sampler,
    submit_sample,
    used_for_others,
)
from tinkex_server.state import ServerState
from tinkex_server.store import SamplerRow, UsageKind
from tinkex_server.wire.events import EventStream
from tinkex_server.wire.results import encode_sample
from tinkex_server.wire.sampling_requests import check_streamed, sample_spec


async def create_sampling_session(
    state: ServerState, call: Call[CreateSamplingSessionRequest]
) -> Mapping[str, Any]:
    body = call.body
    sampler_id = id_of_new_sampler(state, call)
    wanted = _new_sampler(
        state, call.access, sampler_id, body.session_id, body.base_model, body.model_path
    )
    known = state.store.samplers.get(sampler_id)
    if known is None:
        call.access.open_session(body.session_id)
        state.store.samplers.add(wanted, time.time())
    elif known != evolve(wanted, owner=known.owner):
        raise used_for_others(call)
    return CreateSamplingSessionResponse(sampler_id, type="create_sampling_session").to_dict()


def _new_sampler(
    state: ServerState,
    access: Access,
    sampler_id: str,
    session_id: str,
    base_model: str | None,
    model_path: str | None,
) -> SamplerRow:
    """Returns a sampler of a base model, or of saved weights; their base model may be named too."""
    if not isinstance(model_path, str):
        if not isinstance(base_model, str):
            raise malformed("model_path", message="must be given, or base_model")
        return SamplerRow(sampler_id, session_id, state.base_model(base_model).name, None, None)
    path = checkpoint_path.parse(model_path)
    trained = access.run_of(access.checkpoint(path)).base_model
    if isinstance(base_model, str) and base_model != trained:
        raise bad_request(f"{model_path} was trained over {trained!r}, not over {base_model!r}")
    return SamplerRow(sampler_id, session_id, state.base_model(trained).name, model_path, None)


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
    spec = _spec(state, sampler, body)

    async def work() -> bytes:
        await state.samplers.load(sampler)
        begun = state.engine.sample(sampler.weights_id, spec)
        # a future that is done is not awaited, which would take a round of the event loop
        result = begun.result() if begun.done() else await asyncio.wrap_future(begun)
        _note_usage(state, identity.owner, sampler, spec, result)
        return encode_sample(result, body.target_prompt_logprobs)

    return state.futures.start(identity, work)


def _spec(state: ServerState, sampler: SamplerRow, body: SampleRequest) -> SampleSpec:
    limits = state.limits
    check_at_most(limits.num_samples, body.num_samples, "num_samples")
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        check_at_most(limits.top_tokens, getattr(body, name) or 0, name)
    spec = sample_spec(body)
    check_at_most(limits.tokens, len(spec.prompt), "prompt", "number of tokens")
    check_at_most(
        limits.top_tokens_per_result,
        _count_top_tokens(spec, state.base_model(sampler.base_model).max_context_length),
        "number of top-k and alternative tokens",
    )
    return spec


def _count_top_tokens(spec: SampleSpec, longest: int) -> int:
    """Returns the most tokens that the result may hold beside the sampled ones."""
    sampled = spec.num_samples * min(longest, spec.max_tokens or longest)
    return sampled * spec.topk_sample_logprobs + len(spec.prompt) * (
        spec.topk_prompt_logprobs + spec.prompt_alt_tokens_k
    )


async def sample_stream(state: ServerState, call: Call[SampleRequest]) -> EventStream:
    sampler = _sampler_of(state, call.access, call.body)
    spec = _spec(state, sampler, call.body)
    check_streamed(call.body)
    state.futures.check_capacity()
    state.activity.note_request(sampler.session_id)
    identity = call.identify(sampler.sampler_id, None, "sample_stream")
    try:
        await state.samplers.load(sampler)
    except EngineDied as error:
        raise Refused(Reason.UNAVAILABLE, str(error)) from error
    loop = asyncio.get_running_loop()

    def begin(on_token: OnToken) -> Future[SampleResult]:
        sample = state.engine.sample(sampler.weights_id, spec, on_token)
        state.futures.follow(identity, sample)
        sample.add_done_callback(lambda done: call_on_loop(loop, note, done))
        return sample

    def note(done: Future[SampleResult]) -> None:
        if not done.cancelled() and not done.exception():
            _note_usage(state, identity.owner, sampler, spec, done.result())

    return EventStream(begin)


def _note_usage(
    state: ServerState, owner: str, sampler: SamplerRow, spec: SampleSpec, result: SampleResult
) -> None:
    """Adds the tokens to the usage, those of the prompt once for all samples. Logs, once for each
    base model, that a sample was cut.
    """
    most = spec.max_tokens or 0
    if any(
        sequence.stop_reason == "length" and len(sequence.tokens) < most
        for sequence in result.sequences
    ):
        context = state.base_model(sampler.base_model).max_context_length
        state.once_logger.warn(
            f"a sample of {sampler.base_model} was cut before its max_tokens of {most}: together "
            f"with its prompt of {len(spec.prompt)} tokens it fills the model's context of "
            f"{context} tokens",
            subject=f"cut {sampler.base_model}",
        )
    sampled = sum(len(sequence.tokens) for sequence in result.sequences)
    amounts: Mapping[UsageKind, int] = {
        "sampling_prefill": len(spec.prompt),
        "sampling_sample": sampled,
    }
    state.store.usage.add(owner, sampler.session_id, sampler.base_model, amounts, time.time())


def _sampler_of(state: ServerState, access: Access, body: SampleRequest) -> SamplerRow:
    """Returns the sampler of the sampling session, or one that all requests for the same weights
    without a session share.
    """
    if isinstance(body.sampling_session_id, str):
        return access.sampler(body.sampling_session_id)
    row = _new_sampler(state, access, "", "", body.base_model, body.model_path)
    return evolve(
        row, sampler_id=f"{row.model_path or row.base_model} as of {_saved_at(state, row)}"
    )


def _saved_at(state: ServerState, row: SamplerRow) -> float:
    """Returns the time of the save: weights saved again under a path are another sampler."""
    checkpoint = (
        state.store.checkpoints.get(checkpoint_path.parse(row.model_path))
        if row.model_path
        else None
    )
    return checkpoint.created_at if checkpoint else 0.0


ROUTES = [
    post("/create_sampling_session", CreateSamplingSessionRequest, create_sampling_session),
    get("/samplers/{sampler_id:path}", get_sampler),
    post("/join_sampling_session", JoinSamplingSessionRequest, join_sampling_session),
    post("/asample", SampleRequest, sample),
    post("/asample_stream", SampleRequest, sample_stream),
]
