"""The rules for samples: which weights they come from, their bounds, and how they are streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeAlias

from attrs import evolve
from tinkex_api.models import SampleRequest

from tinkex_server import checkpoint_path
from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import EngineDied, OnToken, SampleResult, SampleSpec
from tinkex_server.errors import Reason, Refused, bad_request, malformed
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.limits import check_at_most
from tinkex_server.loop_calls import call_on_loop
from tinkex_server.state import ServerState
from tinkex_server.store import SamplerRow, UsageKind
from tinkex_server.wire.sampling_requests import sample_spec

Begin: TypeAlias = Callable[[OnToken], Future[SampleResult]]
"""A function that starts a sample whose tokens are handed to a callback."""


def new_sampler(
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


def shared_sampler(
    state: ServerState, access: Access, base_model: str | None, model_path: str | None
) -> SamplerRow:
    """Returns the sampler that all requests for the same weights without a session share."""
    row = new_sampler(state, access, "", "", base_model, model_path)
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


def checked_spec(state: ServerState, sampler: SamplerRow, body: SampleRequest) -> SampleSpec:
    """Returns what the engine is to sample. Raises `Refused` for what the limits do not allow."""
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


async def prepare_stream(
    state: ServerState, sampler: SamplerRow, spec: SampleSpec, identity: RequestIdentity
) -> Begin:
    """Loads the weights, and returns a function that starts one streamed sample, which counts as a
    pending request until it ends.

    Raises `Refused` (429) when too many requests are pending, and (503) when the engine has died.
    """
    state.futures.check_capacity()
    if sampler.session_id:
        state.activity.note_request(sampler.session_id)
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
            note_usage(state, identity.owner, sampler, spec, done.result())

    return begin


def note_usage(
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
