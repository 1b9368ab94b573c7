"""The bridge's route of streams: tokens of a sample are passed on as the server sends them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from concurrent.futures import Future

from tinkex_api.models import SampleRequest

from tinkex.bridge import values
from tinkex.bridge.failures import failure, refusing
from tinkex.bridge.sampling import note_usage, opened_sampler, sampler_of
from tinkex.bridge.state import BridgeState
from tinkex.errors import TinkexError
from tinkex.sampling.stream import SamplePiece
from tinkex_server.engine.interface import (
    EngineDied,
    InvalidRequest,
    OnToken,
    SampledTokens,
    SampleResult,
)
from tinkex_server.errors import Reason, Refused
from tinkex_server.jobs.requests import WorkFailed
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.store import SamplerRow
from tinkex_server.wire.events import EventStream
from tinkex_server.wire.sampling_requests import check_streamed


async def sample_stream(state: BridgeState, call: Call[SampleRequest]) -> EventStream:
    body = call.body
    sampler = sampler_of(call.access, body)
    check_streamed(body)
    state.futures.check_capacity()
    if sampler.session_id:
        state.activity.note_request(sampler.session_id)
    try:
        opened = await opened_sampler(state, call.access, sampler)
    except WorkFailed as error:
        reason = Reason.BAD_REQUEST if error.category == "user" else Reason.UNAVAILABLE
        raise Refused(reason, str(error)) from error
    async with refusing(opened.url):
        pieces = opened.client.sample_stream(values.model_input(body.prompt), body.sampling_params)
    identity = call.identify(sampler.sampler_id, None, "sample_stream")

    def begin(on_token: OnToken) -> Future[SampleResult]:
        sample: Future[SampleResult] = Future()
        state.futures.follow(identity, sample)
        passing = asyncio.get_running_loop().create_task(
            _pass_on(state, sampler, body, pieces, on_token, opened.url)
        )
        _tie(passing, sample)
        return sample

    return EventStream(begin)


async def _pass_on(
    state: BridgeState,
    sampler: SamplerRow,
    body: SampleRequest,
    pieces: AsyncIterator[SamplePiece],
    on_token: OnToken,
    url: str,
) -> SampleResult:
    """Passes the tokens on as they come. Returns the whole sample.

    Raises `InvalidRequest` for a fault of the sender, and `EngineDied` for one of the server, as an
    engine does.
    """
    tokens: list[int] = []
    reason = "stop"
    try:
        async for piece in pieces:
            logprobs = piece.logprobs or [math.nan] * len(piece.tokens)
            for token, logprob in zip(piece.tokens, logprobs, strict=True):
                on_token(token, logprob)
            tokens += piece.tokens
            if piece.sequence is not None:
                reason = piece.sequence.stop_reason
    except TinkexError as error:
        failed = failure(error, url)
        raised = InvalidRequest if failed.category == "user" else EngineDied
        raise raised(str(failed)) from error
    note_usage(state, sampler, body, len(tokens))
    return SampleResult([SampledTokens(tokens, [], reason)])


def _tie(passing: asyncio.Task[SampleResult], sample: Future[SampleResult]) -> None:
    """Gives the future the outcome of the task, and cancels the task with the future."""

    def end(task: asyncio.Task[SampleResult]) -> None:
        error = None if task.cancelled() else task.exception()
        if sample.done():
            return
        if task.cancelled():
            sample.cancel()
        elif error is not None:
            sample.set_exception(error)
        else:
            sample.set_result(task.result())

    passing.add_done_callback(end)
    sample.add_done_callback(lambda done: passing.cancel() if done.cancelled() else None)


ROUTES = [post("/asample_stream", SampleRequest, sample_stream)]
