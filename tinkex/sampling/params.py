"""Reads a user's sampling parameters, and translates them for the kind of server that gets them.
Plain functions of values: no I/O here.

Servers differ in how greedy sampling, a filter that is off and the absence of a limit are written
(docs/servers.md); a user writes them in the same way for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from attrs import fields

from tinkex.dialects.dialect import Dialect
from tinkex.errors import InvalidInputError, UnsupportedByServer
from tinkex.types import SamplingParams
from tinkex.types.number_checks import check_optional_int, is_int, is_number

_KNOWN = tuple(field.name for field in fields(SamplingParams) if field.init)


def read_params(params: SamplingParams | Mapping[str, Any] | None) -> SamplingParams:
    """Returns a checked copy of the user's parameters, with `stop` as a list.

    Raises:
        InvalidInputError: a parameter is unknown or has a value that no server takes; the message
            names it.
    """
    given = params.to_dict() if isinstance(params, SamplingParams) else dict(params or {})
    read = SamplingParams.from_dict(
        {name: value for name, value in given.items() if value is not None}
    )
    if not isinstance(params, SamplingParams) and read.additional_properties:
        raise InvalidInputError(
            f"unknown sampling parameter {next(iter(read.additional_properties))!r}",
            advice=f"The known ones are {', '.join(sorted(_KNOWN))}.",
        )
    _check_numbers(read)
    read.stop = _stop_list(read.stop)
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
            "an int of 1 or more, or -1 for all tokens",
        ),
        (
            "top_p",
            is_number(params.top_p) and 0 < params.top_p <= 1,
            "a number above 0, and at most 1",
        ),
    )
    check_optional_int("sampling_params.max_tokens", params.max_tokens, 1)
    check_optional_int("sampling_params.seed", params.seed)
    for name, holds, expected in checks:
        if not holds:
            raise InvalidInputError(
                f"sampling_params.{name} must be {expected}, found {getattr(params, name)!r}"
            )


def _stop_list(stop: Any) -> list[str] | list[int] | None:
    """Returns `stop` as a list, or None: None means a stop at the end-of-sequence token, while an
    empty list means no stop at all.
    """
    if stop is None:
        return None
    if isinstance(stop, str) or not isinstance(stop, Sequence):
        stop = [stop]
    values = list(cast("Sequence[Any]", stop))
    if not (all(isinstance(value, str) and value for value in values) or all(map(is_int, values))):
        raise InvalidInputError(
            "sampling_params.stop must be a string, a list of strings, or a list of token ids, "
            f"found {stop!r}"
        )
    return values


def params_for_server(params: SamplingParams, dialect: Dialect) -> SamplingParams:
    """Returns the parameters that make a server do what `params` say.

    Raises:
        InvalidInputError: the server samples fewer tokens in one request than `max_tokens`.
        UnsupportedByServer: the server does not sample at this temperature.
    """
    rules = dialect.sampling
    if rules.temperature is not None and params.temperature != rules.temperature:
        raise UnsupportedByServer(
            f"{dialect.name} does not sample at a temperature of {params.temperature}",
            server=dialect.name,
            operation="sample",
            advice=f"Give a temperature of {rules.temperature}, the only one that it samples at.",
        )
    sent = SamplingParams(*(getattr(params, name) for name in _KNOWN))
    sent.additional_properties = dict(params.additional_properties)
    if sent.max_tokens is None:
        sent.max_tokens = rules.default_max_tokens
    elif rules.max_tokens is not None and sent.max_tokens > rules.max_tokens:
        raise InvalidInputError(
            f"sampling_params.max_tokens is {sent.max_tokens}, but {dialect.name} samples at most "
            f"{rules.max_tokens} tokens in one request",
            advice="Ask for fewer tokens, and sample again with prompt and sample as the prompt.",
        )
    if params.temperature == 0:
        sent.temperature = rules.greedy_temperature
        return sent
    if params.top_p == 1:
        sent.top_p = rules.top_p_off
    if params.top_k <= 0:
        sent.top_k = rules.top_k_off
    return sent


def params_for_part(params: SamplingParams, part: int) -> SamplingParams:
    """Returns the parameters of one of several requests: each has a seed of its own, since equal
    seeds would give equal samples.
    """
    if params.seed is None or part == 0:
        return params
    return SamplingParams.from_dict({**params.to_dict(), "seed": params.seed + part})


def ignored_params(params: SamplingParams, dialect: Dialect) -> Iterator[str]:
    """Yields a warning for each parameter that the server does not obey, or gets a default for."""
    rules = dialect.sampling
    if params.seed is not None and not rules.seeds:
        yield "seed is ignored: samples differ from call to call"
    if params.stop and not rules.stops:
        yield "stop is ignored: samples go on to max_tokens, so cut them yourself"
    if params.max_tokens is None and rules.default_max_tokens is not None:
        yield (
            "no max_tokens was given, and the server has no safe default: at most "
            f"{rules.default_max_tokens} tokens are sampled"
        )
