"""`Sampler`: sends the requests for samples from one set of weights, each with its own `seq_id`."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from attrs import define, evolve, field
from tinkex_api.api.sampling import join_sampling_session, sample
from tinkex_api.models import JoinSamplingSessionRequest, SampleRequest, UntypedAPIFuture
from tinkex_api.types import Request

from tinkex import events
from tinkex.config import RetrySettings
from tinkex.dialects.dialect import Dialect
from tinkex.errors import APIStatusError, TinkexError
from tinkex.futures.poller import NO_RESULT, Payload, RequestState
from tinkex.sampling import stream
from tinkex.sampling.plan import SamplePlan, text_length
from tinkex.sampling.results import SEQ_IDS_PER_COPY, SamplerResults
from tinkex.sampling.stream import SamplePiece
from tinkex.transport import backoff
from tinkex.transport.transport import Transport
from tinkex.types import ModelInput, SampledSequence, SampleResponse
from tinkex.wire import json, protobuf

logger = logging.getLogger("tinkex")
T = TypeVar("T")

_MAX_SUBMITS = 256  # at once; more only open connections, and keep the garbage collector busy
_COPIES = 2**33  # so that all seq_ids stay below 2**63
_TRUNCATED = (
    "a sample ended before a stop and before its max_tokens (stop_reason 'length'): prompt and "
    "sample filled the model's context, or the server samples no more tokens at once. Shorten the "
    "prompt, or ask for fewer tokens"
)
_NO_SUCH_ROUTE = (404, 405)


@define(eq=False)
class Sampler:
    """The sender of sample requests for one sampling session."""

    transport: Transport
    results: SamplerResults
    sampling_session_id: str
    record_stability_info: bool
    needs_own_seq_ids: bool
    """Whether this is a copy that would still number its requests as the original does."""
    base_model: str | None
    """The base model's name, for the repr of responses; None while it is unknown."""
    _seq_ids: itertools.count[int] = field(init=False, factory=itertools.count)
    _joining: asyncio.Lock = field(init=False, factory=asyncio.Lock)
    _submitting: asyncio.Semaphore = field(
        init=False, factory=lambda: asyncio.Semaphore(_MAX_SUBMITS)
    )

    @property
    def dialect(self) -> Dialect:
        return self.transport.server.dialect

    async def sample(
        self, prompt: ModelInput, plan: SamplePlan, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        """Sends the plan's requests, and returns their results as one response.

        Args:
            state: shows the progress of the first request.
            timeout: seconds for the server to accept each request.
        """
        began, response, failure = self.transport.clock.now(), None, None
        try:
            if self.needs_own_seq_ids:
                await self._take_own_seq_ids()
            response = await (
                self._send_part(prompt, plan, 0, state, timeout)
                if len(plan.part_sizes) == 1
                else self._send_parts(prompt, plan, state, timeout)
            )
            plan.check_response(response, self.dialect)
            self._warn_if_truncated(response.sequences, plan)
            object.__setattr__(response, "base_model", self.base_model)
            return response
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            self._emit_done(state, response, self.transport.clock.now() - began, failure)

    def _emit_done(
        self,
        state: RequestState,
        response: SampleResponse | None,
        seconds: float,
        failure: str | None,
    ) -> None:
        sequences = response.sequences if response and failure is None else ()
        self.transport.emit(
            events.SamplingDone,
            request_id=state.request_id,
            sequences=len(sequences),
            tokens=sum(len(sequence.tokens_np) for sequence in sequences),
            seconds=seconds,
            error=failure,
        )

    def _warn_if_truncated(self, sequences: Sequence[SampledSequence], plan: SamplePlan) -> None:
        if plan.was_truncated(sequences):
            self.transport.server.warn_once(_TRUNCATED)

    async def stream(
        self, prompt: ModelInput, plan: SamplePlan, state: RequestState, timeout: float | None
    ) -> AsyncGenerator[SamplePiece, None]:
        """Yields one sample piece by piece, or as one piece where the server does not stream."""
        refused = False
        if self.dialect.streams_samples:
            body = plan.request(prompt, 0)
            body.sampling_session_id = self.sampling_session_id
            try:
                async with aclosing(stream.read_pieces(self.transport, body, timeout)) as pieces:
                    async for piece in pieces:
                        if piece.sequence:
                            self._warn_if_truncated([piece.sequence], plan)
                        yield piece
                return
            except APIStatusError as error:
                if error.status_code not in _NO_SUCH_ROUTE:
                    raise
                refused = True
        response = await self.sample(prompt, plan, state, timeout)
        if refused:  # the session exists, since it was just sampled from: the route does not
            self.transport.server.update_dialect(streams_samples=False)
        yield stream.as_one_piece(response.sequences[0])

    async def _send_parts(
        self, prompt: ModelInput, plan: SamplePlan, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        """Sends all requests of the plan; returns the first one's response, with the sequences of
        the others appended.
        """
        states = [state, *(state.for_next_request() for _ in plan.part_sizes[1:])]
        responses = await _gather(
            [self._send_part(prompt, plan, part, own, timeout) for part, own in enumerate(states)]
        )
        sequences = [sequence for response in responses for sequence in response.sequences]
        return evolve(responses[0], sequences=sequences)

    async def _send_part(
        self,
        prompt: ModelInput,
        plan: SamplePlan,
        part: int,
        state: RequestState,
        timeout: float | None,
    ) -> SampleResponse:
        """Sends one request and returns its response. A request whose result the server lost is
        sent again, with a new `seq_id`.
        """
        attempt = 1
        while True:
            seq_id = next(self._seq_ids)
            # not by `async with`, whose coroutine each sample that waits here would hold
            await self._submitting.acquire()
            try:
                # the body is made only now, so that calls that wait here hold little memory
                promise = await self.transport.send(
                    self._request(plan.request(prompt, part), seq_id), timeout=timeout, state=state
                )
            finally:
                self._submitting.release()
            state.request_id = promise.request_id
            decode = partial(_decode, promise, text_length(prompt))
            try:
                response = await self.results.wait_for(state, seq_id, decode)
            except TinkexError as error:
                await self._pause_before_retry(
                    attempt, error, state.retry or self.transport.config.retry
                )
                attempt += 1
            else:
                if (state.queue_state or "").startswith("paused"):
                    state.note_queue_state("active", None)
                return response

    def _request(self, body: SampleRequest, seq_id: int) -> Request[UntypedAPIFuture]:
        body.sampling_session_id, body.seq_id = self.sampling_session_id, seq_id
        body.record_stability_info = self.record_stability_info or None
        return sample.request(body=body, x_tinker_sampling_backpressure="1")

    async def _pause_before_retry(
        self, attempt: int, error: TinkexError, settings: RetrySettings
    ) -> None:
        """Pauses, or raises `error` where a retry would not help."""
        clock = self.transport.clock
        if attempt >= settings.max_attempts or not isinstance(error, NO_RESULT):
            raise error
        pause = backoff.delay(attempt, settings, None, clock.random())
        logger.warning(
            "the server lost a sample's result; sampling again in %.1f s: %s", pause, error
        )
        await clock.sleep(pause)

    async def _take_own_seq_ids(self) -> None:
        """Gives a copy a range of `seq_id`s of its own: the server takes two requests with one
        `seq_id` for one (openapi/tinker.yaml, SampleRequest.seq_id).
        """
        async with self._joining:
            if self.needs_own_seq_ids:
                self._seq_ids = itertools.count(await self._copy_number() * SEQ_IDS_PER_COPY)
                self.needs_own_seq_ids = False

    async def _copy_number(self) -> int:
        """Returns the number that the server assigns to this copy, or else a random one."""
        if not self.dialect.joins_samplers:
            return 1 + self.transport.clock.random_below(_COPIES)
        body = JoinSamplingSessionRequest(self.sampling_session_id)
        answer = await self.transport.send(join_sampling_session.request(body=body))
        return answer.client_counter


def _decode(
    promise: UntypedAPIFuture, prompt_length: int | None, payload: Payload
) -> SampleResponse:
    decode = protobuf.decode_sample if isinstance(payload, bytes) else json.decode_sample
    response = decode(payload, promise, prompt_length)  # pyright: ignore[reportArgumentType]
    if (
        not response.sequences
        and response.prompt_logprobs_np is None
        and response.target_prompt_logprobs is None
    ):
        raise ValueError("it holds neither sequences nor logprobs")
    return response


async def _gather(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Returns all results; when one fails, cancels the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
