"""What one sample asks: checked before anything is sent, and held against the answer. Plain values:
no I/O here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen
from tinkex_api.models import SampleRequest

from tinkex.dialects.dialect import Dialect
from tinkex.errors import InvalidInputError, UnsupportedByServer
from tinkex.sampling import ways
from tinkex.types import (
    ArrayLike,
    EncodedTextChunk,
    ModelInput,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
)
from tinkex.types.number_checks import check_int, check_optional_int
from tinkex.wire import json


def _targets(value: TensorData | ArrayLike | None) -> TensorData | None:
    tensor = value if value is None or isinstance(value, TensorData) else TensorData(value, "int64")
    if tensor is not None and (tensor.dtype != "int64" or len(tensor.shape) != 2):
        raise InvalidInputError(
            f"target_prompt_logprobs must be int64 (prompt length - 1, K), found {tensor.dtype} "
            f"{list(tensor.shape)}"
        )
    return tensor


def _count(_questions: object, attribute: Any, value: int) -> None:
    check_int(attribute.name, value, 0)


@frozen(kw_only=True)
class Questions:
    """What is to be told besides the tokens. Raises `InvalidInputError` for what no prompt
    allows.
    """

    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = field(default=0, validator=_count)
    topk_sample_logprobs: int = field(default=0, validator=_count)
    target_prompt_logprobs: TensorData | None = field(default=None, converter=_targets)
    prompt_alt_tokens_k: int = field(default=0, validator=_count)
    prompt_logprobs_last_n: int | None = None

    def __attrs_post_init__(self) -> None:
        last_n = self.prompt_logprobs_last_n
        check_optional_int("prompt_logprobs_last_n", last_n)
        if last_n is not None and (last_n < 1 or not self.prompt_logprobs):
            raise InvalidInputError(
                "prompt_logprobs_last_n must be 1 or more, and needs prompt logprobs; found "
                f"{last_n}"
            )

    @property
    def of_the_prompt(self) -> bool:
        """Whether they ask for logprobs at the prompt's positions."""
        return bool(
            self.prompt_logprobs
            or self.topk_prompt_logprobs
            or self.target_prompt_logprobs is not None
            or self.prompt_alt_tokens_k
        )

    def check(self, prompt: ModelInput) -> None:
        """Raises `InvalidInputError` for a prompt that is empty, or too short for them."""
        if prompt.is_empty:
            raise InvalidInputError("the prompt is empty", advice="Give it one token at least.")
        length, last_n, targets = (
            text_length(prompt),
            self.prompt_logprobs_last_n,
            self.target_prompt_logprobs,
        )
        if length is None:
            return
        if last_n is not None and last_n >= length:
            raise InvalidInputError(
                f"prompt_logprobs_last_n must be less than the prompt's {length} tokens, found "
                f"{last_n}"
            )
        if targets is not None and targets.shape[0] != length - 1:
            raise InvalidInputError(
                f"target_prompt_logprobs must have {length - 1} rows, one for each token of the "
                "prompt but the first; "
                f"found {targets.shape[0]}"
            )


def text_length(prompt: ModelInput) -> int | None:
    """Tokens; None where not all is text, so that only the server knows."""
    lengths = [chunk.length for chunk in prompt.chunks if isinstance(chunk, EncodedTextChunk)]
    return sum(lengths) if len(lengths) == len(prompt.chunks) else None


@frozen
class Ask:
    """What is asked of a server about any prompt. `params` are as it is to be sent them, `parts`
    the samples of each request.
    """

    parts: list[int]
    params: SamplingParams
    questions: Questions

    @classmethod
    def prepared(
        cls, num_samples: int, params: SamplingParams, questions: Questions, dialect: Dialect
    ) -> Ask:
        """`params` are what `ways.read_params` gave. Raises `InvalidInputError`, or
        `UnsupportedByServer` for what this server never gives.
        """
        check_int("num_samples", num_samples, 1)
        if questions.of_the_prompt and not dialect.sampling.prompt_logprobs:
            raise ways.no_prompt_logprobs(dialect)
        ways.require_temperature(params, dialect)
        return cls(
            ways.parts(num_samples, dialect.sampling),
            ways.as_sent(params, dialect.sampling),
            questions,
        )

    def request(self, prompt: ModelInput, part: int) -> SampleRequest:
        """That of one part, the first of which asks about the prompt."""
        questions = self.questions
        request = SampleRequest(
            prompt=json.encode_model_input(prompt),
            sampling_params=ways.of_part(self.params, part),
            num_samples=self.parts[part],
            prompt_logprobs=False,
            topk_prompt_logprobs=0,
            topk_sample_logprobs=questions.topk_sample_logprobs or None,
        )
        if part == 0:
            targets = questions.target_prompt_logprobs
            request.prompt_logprobs, request.topk_prompt_logprobs = (
                questions.prompt_logprobs,
                questions.topk_prompt_logprobs,
            )
            request.target_prompt_logprobs = (
                None if targets is None else json.encode_tensor(targets)
            )
            request.prompt_alt_tokens_k = questions.prompt_alt_tokens_k or None
            request.prompt_logprobs_last_n = questions.prompt_logprobs_last_n
        return request


def check_answer(response: SampleResponse, questions: Questions, dialect: Dialect) -> None:
    """Raises `UnsupportedByServer` when the server passed over something newer that it was
    asked.
    """
    for name in _passed_over(response, questions):
        raise UnsupportedByServer(
            f"{dialect.name} passed over {name}",
            server=dialect.name,
            operation="sample",
            advice="Sample without it.",
        )


def was_cut(sequences: Sequence[SampledSequence], max_tokens: int | None) -> bool:
    """Returns whether a sample ended for its length, and before it had the tokens that were asked
    for.
    """
    return max_tokens is not None and any(
        sequence.stop_reason == "length" and len(sequence.tokens_np) < max_tokens
        for sequence in sequences
    )


def _passed_over(response: SampleResponse, questions: Questions) -> Iterator[str]:
    if questions.target_prompt_logprobs is not None and response.target_prompt_logprobs is None:
        yield "target_prompt_logprobs"
    if questions.prompt_alt_tokens_k and response.prompt_alt_tokens is None:
        yield "prompt_alt_tokens_k"
    last_n, logprobs = questions.prompt_logprobs_last_n, response.prompt_logprobs_np
    if last_n is not None and logprobs is not None and not np.isnan(logprobs[:-last_n]).all():
        yield "prompt_logprobs_last_n"
