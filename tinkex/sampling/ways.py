"""What a server is sent for what its user asks, by its ways of sampling. Plain functions of values:
no I/O here.

Servers differ in what they take for greedy, for "off" and for "no limit" (docs/servers.md); the
user always writes the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from attrs import fields

from tinkex.dialects.dialect import Dialect, SamplingRules
from tinkex.errors import InvalidInputError, UnsupportedByServer
from tinkex.types import SamplingParams
from tinkex.types.number_checks import check_optional_int, is_int, is_number

_KNOWN = tuple(field.name for field in fields(SamplingParams) if field.init)


def read_params(params: SamplingParams | Mapping[str, Any] | None) -> SamplingParams:
    """A copy of what the user gave, checked, with `stop` as a list. Raises `InvalidInputError`,
    naming the field.
    """
    given = params.to_dict() if isinstance(params, SamplingParams) else dict(params or {})
    read = SamplingParams.from_dict(
        {name: value for name, value in given.items() if value is not None}
    )
    if not isinstance(params, SamplingParams) and read.additional_properties:
        raise InvalidInputError(
            f"unknown sampling parameter {next(iter(read.additional_properties))!r}",
            advice=f"Known are {', '.join(sorted(_KNOWN))}.",
        )
    _check_numbers(read)
    read.stop = _stops(read.stop)
    return read


def _check_numbers(params: SamplingParams) -> None:
    checks: tuple[tuple[str, bool, str], ...] = (
        (
            "temperature",
            is_number(params.temperature) and 0 <= params.temperature < math.inf,
            "a number of 0 or more",
        ),
        (
            "top_k",
            is_int(params.top_k) and params.top_k >= -1,
            "an int of 1 or more, or -1 for all",
        ),
        (
            "top_p",
            is_number(params.top_p) and 0 < params.top_p <= 1,
            "a number above 0, and at most 1",
        ),
    )
    check_optional_int("sampling_params.max_tokens", params.max_tokens, 1)
    check_optional_int("sampling_params.seed", params.seed)
    for name, holds, words in checks:
        if not holds:
            raise InvalidInputError(
                f"sampling_params.{name} must be {words}, found {getattr(params, name)!r}"
            )


def _stops(stop: Any) -> list[str] | list[int] | None:
    """None, for the end-of-sequence token, is not the same as an empty list, for no stop at all."""
    if stop is None:
        return None
    if isinstance(stop, str) or not isinstance(stop, Sequence):
        stop = [stop]
    values = list(cast("Sequence[Any]", stop))
    if not (all(isinstance(value, str) and value for value in values) or all(map(is_int, values))):
        raise InvalidInputError(
            f"sampling_params.stop must be a text, texts, or token ids, found {stop!r}"
        )
    return values


def as_sent(params: SamplingParams, ways: SamplingRules) -> SamplingParams:
    """The parameters that make a server of these ways do what `params` say. Raises
    `InvalidInputError` where none do.
    """
    sent = SamplingParams.from_dict(params.to_dict())
    if sent.max_tokens is None:
        sent.max_tokens = ways.default_max_tokens
    elif ways.max_tokens is not None and sent.max_tokens > ways.max_tokens:
        raise InvalidInputError(
            f"sampling_params.max_tokens is {sent.max_tokens}, and this server samples "
            f"{ways.max_tokens} in one request",
            advice="Ask for fewer, and go on from what was sampled.",
        )
    if params.temperature == 0:
        sent.temperature = ways.greedy_temperature
        return sent
    if params.top_p == 1:
        sent.top_p = ways.top_p_off
    if params.top_k <= 0:
        sent.top_k = ways.top_k_off
    return sent


def require_temperature(params: SamplingParams, dialect: Dialect) -> None:
    """Raises `UnsupportedByServer` for a temperature at which the server does not sample."""
    only = dialect.sampling.temperature
    if only is not None and params.temperature != only:
        raise UnsupportedByServer(
            f"{dialect.name} does not sample at a temperature of {params.temperature}",
            server=dialect.name,
            operation="sample",
            advice=f"It samples at {only} alone.",
        )


def parts(num_samples: int, ways: SamplingRules) -> list[int]:
    """How many samples each request asks for, where a server gives only so many in one."""
    most = ways.max_samples or num_samples
    return [min(most, num_samples - begun) for begun in range(0, num_samples, most)]


def of_part(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of a later part of a sample: with a seed of its own, or its sequences would be
    the first one's again.
    """
    if params.seed is None or index == 0:
        return params
    return SamplingParams.from_dict({**params.to_dict(), "seed": params.seed + index})


def remarks(params: SamplingParams, ways: SamplingRules) -> Iterator[str]:
    """What the user should know of what such a server makes of the parameters."""
    if params.seed is not None and not ways.seeds:
        yield "a seed is taken and not heeded: samples differ from call to call"
    if params.stop and not ways.stops:
        yield "stop is taken and not heeded: samples go on to max_tokens, so cut them yourself"
    if params.max_tokens is None and ways.default_max_tokens is not None:
        yield (
            f"no max_tokens was given, and it has no safe default: {ways.default_max_tokens} "
            "tokens are sampled at most"
        )


def no_prompt_logprobs(dialect: Dialect) -> UnsupportedByServer:
    """The error of a server that gives none."""
    return UnsupportedByServer(
        f"{dialect.name} gives no logprobs of a prompt",
        server=dialect.name,
        operation="sample",
        advice=(
            "Give the tokens to a training client's forward: its loss_fn_outputs hold their "
            "logprobs."
        ),
    )


def require_weights(dialect: Dialect, *, base_model: str | None, model_path: str | None) -> None:
    """Raises where these weights cannot be sampled: `InvalidInputError` for none,
    `UnsupportedByServer` for what a server cannot.
    """
    if not (base_model or model_path):
        raise InvalidInputError("create_sampling_client needs base_model or model_path")
    if not model_path and not dialect.sampling.base_models:
        raise UnsupportedByServer(
            f"{dialect.name} samples no base model",
            server=dialect.name,
            operation="create_sampling_session",
            advice=(
                "Make a training client and call save_weights_and_get_sampling_client at once: a "
                "new adapter changes nothing."
            ),
        )
    if model_path and "/sampler_weights/" in model_path and not dialect.sampling.saved_names:
        raise UnsupportedByServer(
            f"{dialect.name} cannot sample what save_weights_for_sampler saved by name",
            server=dialect.name,
            operation="create_sampling_session",
            advice=(
                "Save by save_state and sample from its path, or call "
                "save_weights_and_get_sampling_client."
            ),
        )
