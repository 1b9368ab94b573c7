"""Spans that say which sampled sequences, or their prompts, the tokens of a datum come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from attrs import Attribute, field, frozen

from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.types.as_dataclass import as_dataclass


def _check_id(span: Any, attribute: Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not value:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(
            f"{type(span).__name__}.{attribute.name} must be a str that is not empty, found "
            f"{value!r}"
        )


def _check_count(span: Any, attribute: Attribute[int], value: int) -> None:
    if type(value) is not int or value < 0:
        raise InvalidInputError(
            f"{type(span).__name__}.{attribute.name} must be an int of 0 or more, found {value!r}"
        )


@hinted
@as_dataclass
@frozen(kw_only=True)
class PromptProvenanceSpan:
    """A span of the prompt that a sequence was sampled from: `length` tokens, from index `offset`.

    Example:
        >>> datum = datum.with_provenance(
        ...     model_input=[PromptProvenanceSpan(sequence_id="s-1", length=3)],
        ...     loss_fn_inputs=[SampledProvenanceSpan(sequence_id="s-1", length=3)],
        ... )

    Raises:
        InvalidInputError: the id is empty, or a number is not an int of 0 or more.
    """

    sequence_id: str = field(validator=_check_id)
    offset: int = field(validator=_check_count, default=0)
    length: int = field(validator=_check_count)


@hinted
@as_dataclass
@frozen(kw_only=True)
class SampledProvenanceSpan:
    """A span of a sampled sequence: `length` tokens, from index `offset`.

    Example:
        prompt = [1, 2, 3]
        sampled = sampler.sample(prompt, 1, {"max_tokens": 4}).result().sequences[0]
        tokens = prompt + sampled.tokens
        span = SampledProvenanceSpan(sequence_id=sampled.sequence_id, length=len(sampled.tokens))
        spans = [PromptProvenanceSpan(sequence_id=sampled.sequence_id, length=2), span]
        datum = Datum(model_input=tokens[:-1], loss_fn_inputs={"target_tokens": tokens[1:]})
        datum = datum.with_provenance(model_input=spans, loss_fn_inputs=spans)

    Raises:
        InvalidInputError: the id is empty, or a number is not an int of 0 or more.
    """

    sequence_id: str = field(validator=_check_id)
    offset: int = field(validator=_check_count, default=0)
    length: int = field(validator=_check_count)


ProvenanceSpan: TypeAlias = PromptProvenanceSpan | SampledProvenanceSpan
ProvenanceSpans: TypeAlias = Iterable[ProvenanceSpan]
"""Spans in the order of the tokens, without gaps."""


def as_spans(spans: ProvenanceSpans | None, name: str) -> list[ProvenanceSpan] | None:
    """Returns the spans as a list. Raises `InvalidInputError`, naming `name`, for other values."""
    if spans is None:
        return None
    spans = list(spans)
    for index, span in enumerate(spans):
        if not isinstance(span, (PromptProvenanceSpan, SampledProvenanceSpan)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                f"{name}[{index}] must be a PromptProvenanceSpan or a SampledProvenanceSpan, "
                f"found {type(span).__name__}"
            )
    return spans


def check_tiling(spans: Sequence[ProvenanceSpan], tokens: int | None, name: str) -> None:
    """Raises `InvalidInputError`, naming `name`, unless the spans have as many tokens in all as
    `tokens` says. None means that the number is not known, and nothing is checked.
    """
    total = sum(span.length for span in spans)
    if tokens is not None and total != tokens:
        raise InvalidInputError(
            f"{name} must cover the {tokens} tokens exactly, found spans of {total} tokens in all"
        )
