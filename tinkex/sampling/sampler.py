"""`Sampler`: the requests for one set of weights on a server, each under a number of its own."""

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

from tinkex import events
from tinkex.config import RetrySettings
from tinkex.dialects.dialect import Dialect
from tinkex.errors import APIStatusError, TinkexError
from tinkex.futures.poller import NO_RESULT, Payload, RequestState
from tinkex.sampling import stream
from tinkex.sampling.request import Ask, check_answer, text_length, was_cut
from tinkex.sampling.results import NUMBERS_OF_A_COPY, SamplerResults
from tinkex.sampling.stream import SamplePiece
from tinkex.transport import backoff
from tinkex.transport.transport import Transport
from tinkex.types import ModelInput, SampledSequence, SampleResponse
from tinkex.wire import json, protobuf

logger = logging.getLogger("tinkex")
T = TypeVar("T")

_SUBMITS_AT_ONCE = 256  # more only open connections, and keep the garbage collector busy
_COPIES = 2**33  # so that all numbers stay below 2**63
_CUT = (
    "a sample ended before a stop and before its max_tokens (stop_reason 'length'): prompt and "
    "sample filled the model's context, or "
    "all that the server samples at once. Shorten the prompt, or ask for fewer tokens"
)
_NO_SUCH_ROUTE = (404, 405)


@define(eq=False)
class Sampler:
    """Sends what is asked, and waits for it."""

    transport: Transport
    results: SamplerResults
    sampling_session_id: str
    record_stability_info: bool
    shares_numbers: bool
    """Whether it is a copy that has no numbers of its own yet."""
    _numbers: itertools.count[int] = field(init=False, factory=itertools.count)
    _joining: asyncio.Lock = field(init=False, factory=asyncio.Lock)
    _submitting: asyncio.Semaphore = field(
        init=False, factory=lambda: asyncio.Semaphore(_SUBMITS_AT_ONCE)
    )

    @property
    def dialect(self) -> Dialect:
        return self.transport.server.dialect

    async def sample(
        self, prompt: ModelInput, ask: Ask, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        """What was sampled, in as many requests as it takes; `state` tells of the first. `timeout`
        is for each to be taken on.
        """
        began, response, failure = self.transport.clock.now(), None, None
        try:
            response = await self._sampled(prompt, ask, state, timeout)
            return response
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            self._tell(state, response, self.transport.clock.now() - began, failure)

    def _tell(
        self,
        state: RequestState,
        response: SampleResponse | None,
        seconds: float,
        failure: str | None,
    ) -> None:
        sequences = response.sequences if response else ()
        self.transport.emit(
            events.SamplingDone,
            request_id=state.request_id,
            sequences=len(sequences),
            tokens=sum(len(sequence.tokens_np) for sequence in sequences),
            seconds=seconds,
            error=failure,
        )

    async def _sampled(
        self, prompt: ModelInput, ask: Ask, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        await self._become_distinct()
        if len(ask.parts) == 1:
            response = await self._answer(prompt, ask, 0, state, timeout)
        else:
            response = await self._joined(prompt, ask, state, timeout)
        check_answer(response, ask.questions, self.dialect)
        self._tell_of_cuts(response.sequences, ask)
        return response

    def _tell_of_cuts(self, sequences: Sequence[SampledSequence], ask: Ask) -> None:
        if was_cut(sequences, ask.params.max_tokens):
            self.transport.server.warn_once(_CUT)

    async def stream(
        self, prompt: ModelInput, ask: Ask, state: RequestState, timeout: float | None
    ) -> AsyncGenerator[SamplePiece, None]:
        """One sample as it comes, or whole from a server that does not stream."""
        refused = False
        if self.dialect.streams_samples:
            body = ask.request(prompt, 0)
            body.sampling_session_id = self.sampling_session_id
            try:
                async with aclosing(stream.pieces(self.transport, body, timeout)) as pieces:
                    async for piece in pieces:
                        if piece.sequence:
                            self._tell_of_cuts([piece.sequence], ask)
                        yield piece
                return
            except APIStatusError as error:
                if error.status_code not in _NO_SUCH_ROUTE:
                    raise
                refused = True
        response = await self.sample(prompt, ask, state, timeout)
        if refused:  # the weights are there, so it was the route that is not
            self.transport.server.update_dialect(streams_samples=False)
        yield stream.whole(response.sequences[0])

    async def _joined(
        self, prompt: ModelInput, ask: Ask, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        """The first part's answer, with the samples of the others."""
        states = [state, *(state.for_next_request() for _ in ask.parts[1:])]
        first, *others = await _together(
            [self._answer(prompt, ask, part, own, timeout) for part, own in enumerate(states)]
        )
        return evolve(
            first,
            sequences=[
                *first.sequences,
                *(sequence for other in others for sequence in other.sequences),
            ],
        )

    async def _answer(
        self, prompt: ModelInput, ask: Ask, part: int, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        """The result; where it is lost the sample is asked for again, under a new number."""
        attempt = 1
        while True:
            seq_id = next(self._numbers)
            # the request is made only now, so that those who wait hold little
            async with self._submitting:
                promise = await self._submit(ask.request(prompt, part), seq_id, state, timeout)
            state.request_id = promise.request_id
            decode = partial(_decode, promise=promise, prompt_length=text_length(prompt))
            try:
                result = await self.results.result(state, seq_id, decode)
            except TinkexError as error:
                await self._pause_before_another(
                    attempt, error, state.retry or self.transport.config.retry
                )
                attempt += 1
            else:
                if (state.queue_state or "").startswith("paused"):
                    state.note_queue_state("active", None)
                return result

    async def _submit(
        self, body: SampleRequest, seq_id: int, state: RequestState, timeout: float | None
    ) -> UntypedAPIFuture:
        body.sampling_session_id, body.seq_id = self.sampling_session_id, seq_id
        body.record_stability_info = self.record_stability_info or None
        request = sample.request(body=body, x_tinker_sampling_backpressure="1")
        return await self.transport.send(request, timeout=timeout, state=state)

    async def _pause_before_another(
        self, attempt: int, error: TinkexError, settings: RetrySettings
    ) -> None:
        """Raises `error` where another try may not help."""
        clock = self.transport.clock
        if attempt >= settings.max_attempts or not isinstance(error, NO_RESULT):
            raise error
        pause = backoff.delay(attempt, settings, None, clock.random())
        logger.warning(
            "a sample's result is lost, so it is asked for anew in %.1f s: %s", pause, error
        )
        await clock.sleep(pause)

    async def _become_distinct(self) -> None:
        """Gives a copy numbers of its own: the server takes two samples of one number for one
        (openapi/tinker.yaml, SampleRequest.seq_id).
        """
        if not self.shares_numbers:
            return
        async with self._joining:
            if self.shares_numbers:
                self._numbers = itertools.count(await self._number_of_copy() * NUMBERS_OF_A_COPY)
                self.shares_numbers = False

    async def _number_of_copy(self) -> int:
        """From the server where it gives them, else a random one."""
        if self.dialect.joins_samplers:
            body = JoinSamplingSessionRequest(self.sampling_session_id)
            return (
                await self.transport.send(join_sampling_session.request(body=body))
            ).client_counter
        return 1 + self.transport.clock.random_below(_COPIES)


def _decode(
    payload: Payload, promise: UntypedAPIFuture, prompt_length: int | None
) -> SampleResponse:
    decode = protobuf.decode_sample if isinstance(payload, bytes) else json.decode_sample
    response = decode(payload, promise, prompt_length)  # pyright: ignore[reportArgumentType]
    if (
        not response.sequences
        and response.prompt_logprobs_np is None
        and response.target_prompt_logprobs is None
    ):
        raise ValueError("there is nothing in it")
    return response


async def _together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What all give; when one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
