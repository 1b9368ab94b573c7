"""Answers of vLLM's `POST /inference/v1/generate`, checked and turned into results.

A wrong logprob would go into a gradient unnoticed, so an answer that lacks something or contradicts
the request raises `WrongAnswer`, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from attrs import define, field

from tinkex_server.engine.interface import SampledTokens, SampleResult, SampleSpec, TopTokens
from tinkex_server.engine.vllm.errors import CallLost, WrongAnswer

_NO_LOGPROB = -9999.0
"""The value that vLLM writes for a logprob that is missing, NaN or minus infinity."""

Json = Mapping[str, Any]


@define
class PartialSample:
    """One sample as far as its tokens have arrived."""

    vocab_size: int
    top_count: int
    """The number of likely tokens that were requested for each sampled one."""
    tokens: list[int] = field(factory=list[int])
    logprobs: list[float] = field(factory=list[float])
    top: list[TopTokens] = field(factory=list[TopTokens])
    stop_reason: str | None = None

    def add(self, choice: Json) -> Iterator[tuple[int, float]]:
        """Adds the tokens of an answer, or of a part of one; yields each with its logprob.

        Raises `CallLost` if vLLM ended the sample early.
        """
        tokens = _list(choice.get("token_ids"), "token_ids")
        content = _list(_inner(choice, "logprobs").get("content"), "logprobs") if tokens else []
        if len(content) != len(tokens):
            raise WrongAnswer(f"it has {len(tokens)} tokens, and {len(content)} logprobs")
        for token, scored in zip(tokens, content, strict=True):
            self._append(token, scored)
            yield token, self.logprobs[-1]
        self._end(choice.get("finish_reason"))

    def result(self) -> SampledTokens:
        if self.stop_reason is None:
            raise CallLost("the answer ended before the sample did")
        return SampledTokens(
            self.tokens, self.logprobs, self.stop_reason, self.top if self.top_count else None
        )

    def _append(self, token: Any, scored: Json) -> None:
        at = f"token {len(self.tokens)} of a sample"
        if type(token) is not int or not 0 <= token < self.vocab_size:
            raise WrongAnswer(f"{at} is {token!r}, and the model has {self.vocab_size} tokens")
        if scored.get("token_id") != token:
            raise WrongAnswer(f"{at} is {token}, and its logprob is of {scored.get('token_id')!r}")
        self.tokens.append(token)
        self.logprobs.append(_logprob(scored.get("logprob"), at))
        if self.top_count:
            pairs = [
                (top["token_id"], _logprob(top["logprob"], at))
                for top in scored.get("top_logprobs") or ()
            ]
            self.top.append(_likeliest(pairs, self.top_count, at))

    def _end(self, reason: str | None) -> None:
        if reason in ("abort", "error"):
            raise CallLost(f"vLLM ended the sample with {reason!r}")
        if reason not in ("stop", "length", None):
            raise WrongAnswer(f"a sample ended with the unknown reason {reason!r}")
        self.stop_reason = reason


def sample_result(answer: Json, spec: SampleSpec, vocab_size: int) -> SampleResult:
    """Returns the result that a whole answer has for a request."""
    choices = sorted(_list(answer.get("choices"), "choices"), key=lambda choice: choice["index"])
    indices = [choice["index"] for choice in choices]
    if indices != list(range(spec.num_samples)):
        raise WrongAnswer(f"{spec.num_samples} samples were requested, and it has {indices}")
    samples = [PartialSample(vocab_size, spec.topk_sample_logprobs) for _ in choices]
    for sample, choice in zip(samples, choices, strict=True):
        for _ in sample.add(choice):
            pass
    return SampleResult(
        [sample.result() for sample in samples],
        prompt_cache_hit_tokens=cached_tokens(answer),
    )


def cached_tokens(answer: Json) -> int:
    """Returns how many tokens of the prompt were not computed; 0 if vLLM does not say."""
    return _inner(_inner(answer, "usage"), "prompt_tokens_details").get("cached_tokens") or 0


def _likeliest(pairs: Sequence[tuple[int, float]], count: int, at: str) -> TopTokens:
    """Returns the most likely tokens, the best first. The list has one more if the token itself is
    not among them.
    """
    best = sorted(dict(pairs).items(), key=lambda pair: -_logprob(pair[1], at))[:count]
    if not best:
        raise WrongAnswer(f"{at} has no likely tokens")
    return best


def _logprob(value: Any, at: str) -> float:
    if not isinstance(value, float | int):
        raise WrongAnswer(f"{at} has no logprob")
    if value <= _NO_LOGPROB or value != value:
        raise WrongAnswer(
            f"{at} has no finite logprob: the weights of the adapter have probably diverged"
        )
    return float(value)


def _inner(value: Json, name: str) -> Json:
    """Returns an object within another one, empty if it is missing."""
    found: Json | None = value.get(name)
    return found or {}


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise WrongAnswer(f"it has no {name}")
    return cast("list[Any]", value)
