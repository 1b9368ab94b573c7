"""Streams a sample: the pieces of one continuation, read from server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import numpy as np
import orjson
from attrs import define, field, frozen
from tinkex_api.api.sampling import sample_stream
from tinkex_api.models import SampleRequest, SampleStreamEvent

from tinkex.errors import APIConnectionError, FailureCategory, RequestFailedError
from tinkex.transport.answers import PARSE_ERRORS
from tinkex.transport.response_body import unreadable_answer
from tinkex.transport.transport import Transport
from tinkex.types import SampledSequence
from tinkex.waiting.wait import RequestState

_DATA = "data:"


@frozen(eq=False)
class SamplePiece:
    """The next tokens of a sample that is streamed.

    Example:
        async for piece in sampler.sample_stream([1, 2, 3], {"max_tokens": 8}):
            print(piece.tokens)
            if piece.sequence is not None:
                print(piece.sequence.stop_reason)
    """

    tokens: list[int]
    """The new token ids, `(n,)`."""
    logprobs: list[float] | None
    """The logprob of each new token, `(n,)`; None where the server sends none."""
    sequence: SampledSequence | None = None
    """The whole sequence, from the first token on, in the last piece; None in the others."""


def as_one_piece(sequence: SampledSequence) -> SamplePiece:
    """Returns a finished sequence as the only piece of a stream."""
    return SamplePiece(sequence.tokens, sequence.logprobs, sequence)


async def read_pieces(
    transport: Transport, body: SampleRequest, timeout: float | None
) -> AsyncGenerator[SamplePiece, None]:
    """Yields the pieces as the server sends them. Closing the generator closes the connection, and
    so ends the sampling.

    Raises:
        RequestFailedError: the sampling failed.
        APIConnectionError: the connection broke, or the stream ended before the sample did.
        APIStatusError: the server refused.
        WaitTimeoutError: the next tokens did not come within `PollSettings.max_wait`.
        UnreadableAnswerError: an event does not have the contract's form, or a line is too long.
    """
    partial_sequence = _PartialSequence()
    async with transport.stream_lines(sample_stream.request(body=body), timeout=timeout) as lines:
        while (line := await _next_data(transport, lines)) is not None:
            piece = partial_sequence.add(_event(line))
            yield piece
            if piece.sequence is not None:
                return
    raise APIConnectionError(
        "the stream ended before the sample did", operation="sample_stream", advice="Sample again."
    )


async def _next_data(transport: Transport, lines: AsyncGenerator[str]) -> str | None:
    """Returns the data of the next event, or None at the end of the stream. Its wait spans all
    lines up to the event.
    """
    with transport.wait(RequestState("sample_stream"), "the next tokens") as wait:
        wait.set_owner("computation", "the stream is open")
        async for line in lines:
            if line.startswith(_DATA):
                return line.removeprefix(_DATA)
    return None


def _event(text: str) -> SampleStreamEvent:
    try:
        return SampleStreamEvent.from_dict(orjson.loads(text))
    except PARSE_ERRORS as error:
        raise unreadable_answer(
            f"an event of the stream does not have the contract's form: {error}", "sample_stream"
        ) from error


@define(eq=False)
class _PartialSequence:
    """The tokens and logprobs of a sequence that have arrived."""

    tokens: list[int] = field(factory=list[int])
    logprobs: list[float] = field(factory=list[float])

    def add(self, event: SampleStreamEvent) -> SamplePiece:
        if event.error:
            category: FailureCategory = "user" if event.category == "user" else "server"
            raise RequestFailedError(event.error, category=category, operation="sample_stream")
        tokens, logprobs = event.tokens or [], event.logprobs or []
        self.tokens += tokens
        self.logprobs += logprobs
        return SamplePiece(
            tokens, logprobs, self._sequence(event.stop_reason) if event.stop_reason else None
        )

    def _sequence(self, stop_reason: str) -> SampledSequence:
        return SampledSequence(
            tokens_np=np.array(self.tokens, np.int64),
            logprobs_np=np.array(self.logprobs, np.float32),
            stop_reason=stop_reason,
            sequence_id="",
        )
