"""Plans what one call of `sample` sends: checked before anything is sent, and compared with the
response afterwards. Plain values: no I/O here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen
from tinkex_api.models import SampleRequest

from tinkex.dialects.dialect import Dialect
from tinkex.errors import InvalidInputError, UnsupportedByServer
from tinkex.sampling.params import (
    ignored_params,
    params_for_part,
    params_for_server,
    read_params,
)
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
            "target_prompt_logprobs must be int64 of shape (prompt length - 1, K), found "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return tensor


def _not_negative(_extras: object, attribute: Any, value: int) -> None:
    check_int(attribute.name, value, 0)


@frozen(kw_only=True)
class ExtraOutputs:
    """The outputs asked for beside the sampled tokens, as for `AsyncSamplingClient.sample`.

    Raises `InvalidInputError` for values that fit no prompt.
    """

    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = field(default=0, validator=_not_negative)
    topk_sample_logprobs: int = field(default=0, validator=_not_negative)
    target_prompt_logprobs: TensorData | None = field(default=None, converter=_targets)
    prompt_alt_tokens_k: int = field(default=0, validator=_not_negative)
    prompt_logprobs_last_n: int | None = None

    def __attrs_post_init__(self) -> None:
        last_n = self.prompt_logprobs_last_n
        check_optional_int("prompt_logprobs_last_n", last_n)
        if last_n is not None and (last_n < 1 or not self.prompt_logprobs):
            raise InvalidInputError(
                "prompt_logprobs_last_n must be 1 or more, and needs prompt_logprobs=True; found "
                f"{last_n}"
            )

    @property
    def score_prompt(self) -> bool:
        """Whether any of them is computed at the prompt's positions."""
        return bool(
            self.prompt_logprobs
            or self.topk_prompt_logprobs
            or self.target_prompt_logprobs is not None
            or self.prompt_alt_tokens_k
        )


@frozen
class SamplePlan:
    """The requests of one call of `sample`, for any prompt."""

    part_sizes: list[int]
    """The number of samples of each request: some servers limit it."""
    params: SamplingParams
    """The sampling parameters, as the server takes them."""
    extras: ExtraOutputs
    warnings: list[str]
    """Warnings about parameters that the server does not obey."""

    def check_prompt(self, prompt: ModelInput) -> None:
        """Raises `InvalidInputError` for a prompt that is empty, or too short for the extra
        outputs.
        """
        if prompt.is_empty:
            raise InvalidInputError("the prompt is empty", advice="Give at least one token.")
        length = text_length(prompt)
        if length is None:
            return
        last_n, targets = self.extras.prompt_logprobs_last_n, self.extras.target_prompt_logprobs
        if last_n is not None and last_n >= length:
            raise InvalidInputError(
                f"prompt_logprobs_last_n must be less than the prompt's {length} tokens, found "
                f"{last_n}"
            )
        if targets is not None and targets.shape[0] != length - 1:
            raise InvalidInputError(
                f"target_prompt_logprobs must have {length - 1} rows, one for each token of the "
                f"prompt after the first; found {targets.shape[0]}"
            )

    def request(self, prompt: ModelInput, part: int) -> SampleRequest:
        """Returns the body of one request. Only the first, part 0, asks about the prompt."""
        extras = self.extras
        request = SampleRequest(
            prompt=json.encode_model_input(prompt),
            sampling_params=params_for_part(self.params, part),
            num_samples=self.part_sizes[part],
            prompt_logprobs=False,
            topk_prompt_logprobs=0,
            topk_sample_logprobs=extras.topk_sample_logprobs or None,
        )
        if part == 0:
            targets = extras.target_prompt_logprobs
            request.prompt_logprobs = extras.prompt_logprobs
            request.topk_prompt_logprobs = extras.topk_prompt_logprobs
            request.target_prompt_logprobs = (
                None if targets is None else json.encode_tensor(targets)
            )
            request.prompt_alt_tokens_k = extras.prompt_alt_tokens_k or None
            request.prompt_logprobs_last_n = extras.prompt_logprobs_last_n
        return request

    def check_response(self, response: SampleResponse, dialect: Dialect) -> None:
        """Raises `UnsupportedByServer` when the server ignored an extra output, as one does that
        is older than the field.
        """
        for name in self._ignored_outputs(response):
            raise UnsupportedByServer(
                f"{dialect.name} ignored {name}",
                server=dialect.name,
                operation="sample",
                advice=f"Sample without {name}.",
            )

    def _ignored_outputs(self, response: SampleResponse) -> Iterator[str]:
        extras = self.extras
        if extras.target_prompt_logprobs is not None and response.target_prompt_logprobs is None:
            yield "target_prompt_logprobs"
        if extras.prompt_alt_tokens_k and response.prompt_alt_tokens is None:
            yield "prompt_alt_tokens_k"
        last_n, logprobs = extras.prompt_logprobs_last_n, response.prompt_logprobs_np
        if last_n is not None and logprobs is not None and not np.isnan(logprobs[:-last_n]).all():
            yield "prompt_logprobs_last_n"

    def was_truncated(self, sequences: Sequence[SampledSequence]) -> bool:
        """Returns whether a sample ended for its length, but with fewer than `max_tokens`."""
        most = self.params.max_tokens
        return most is not None and any(
            sequence.stop_reason == "length" and len(sequence.tokens_np) < most
            for sequence in sequences
        )


def plan_samples(
    num_samples: int,
    params: SamplingParams | Mapping[str, Any] | None,
    extras: ExtraOutputs,
    dialect: Dialect,
) -> SamplePlan:
    """Plans the requests for `num_samples` continuations of any prompt.

    Raises:
        InvalidInputError: fewer than one sample, or a sampling parameter that does not fit.
        UnsupportedByServer: the server never does what was asked for.
    """
    read = read_params(params)
    check_int("num_samples", num_samples, 1)
    if extras.score_prompt and not dialect.sampling.prompt_logprobs:
        raise no_prompt_logprobs(dialect)
    return SamplePlan(
        params=params_for_server(read, dialect),
        part_sizes=_part_sizes(num_samples, dialect.sampling.max_samples),
        extras=extras,
        warnings=list(ignored_params(read, dialect)),
    )


Asked = tuple[object, ...]
"""The arguments of a call, which are equal for calls that have one plan."""


def asked_for(
    dialect: Dialect, params: SamplingParams | Mapping[str, Any] | None, *others: object
) -> Asked | None:
    """Returns the arguments of a call, which none of them can change afterwards; None where one
    could, such as a list.
    """
    if type(params) is not SamplingParams or params.additional_properties:
        return None
    values = (
        *(params.max_tokens, params.seed, params.temperature, params.top_k, params.top_p),
        *(params.stop, *others),
    )
    kinds = tuple(map(type, values))  # since True equals 1, and would be refused
    return (dialect, *values, *kinds) if _PLAIN.issuperset(kinds) else None


_PLAIN = frozenset({int, float, bool, str, type(None)})


def _part_sizes(num_samples: int, most: int | None) -> list[int]:
    """Splits `num_samples` into requests of at most `most` samples."""
    most = most or num_samples
    return [min(most, num_samples - start) for start in range(0, num_samples, most)]


def text_length(prompt: ModelInput) -> int | None:
    """Returns the prompt's length in tokens; None where it has images, whose length only the server
    knows.
    """
    lengths = [chunk.length for chunk in prompt.chunks if isinstance(chunk, EncodedTextChunk)]
    return sum(lengths) if len(lengths) == len(prompt.chunks) else None


def no_prompt_logprobs(dialect: Dialect) -> UnsupportedByServer:
    """Returns the error for a server that computes no logprobs of a prompt."""
    return UnsupportedByServer(
        f"{dialect.name} computes no logprobs of a prompt",
        server=dialect.name,
        operation="sample",
        advice=(
            "Give the tokens to a training client's forward: its loss_fn_outputs hold their "
            "logprobs."
        ),
    )
