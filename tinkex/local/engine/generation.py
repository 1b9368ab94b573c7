"""Token after token: samples that grow together, each until its own end."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from attrs import define, field
from torch import Tensor

from tinkex.local.engine.adapters import Base
from tinkex.local.engine.base import OnToken, SampledTokens, SampleSpec, TopTokens
from tinkex.local.engine.sampling import draw, generators, top_tokens


@define
class _Sample:
    tokens: list[int] = field(factory=list)
    logprobs: list[float] = field(factory=list)
    top: list[TopTokens] = field(factory=list)
    stop_reason: Literal["stop", "length"] | None = None

    def finished(self, *, with_top: bool) -> SampledTokens:
        return SampledTokens(self.tokens, self.logprobs, self.stop_reason or "length", self.top if with_top else None)


def generate(network: Any, base: Base, prefill: Any, spec: SampleSpec, room: int, on_token: OnToken | None) -> list[SampledTokens]:
    """What `spec` asks for, `room` tokens at most, after the prompt whose forward pass gave `prefill`."""
    count, cache = spec.num_samples, prefill.cache
    cache.batch_repeat_interleave(count)
    logits = prefill.logits[:, -1].expand(count, -1)
    streams = generators(spec.seed, count)
    samples = [_Sample() for _ in range(count)]
    for left in range(room, 0, -1):
        drawn = draw(logits, spec, streams)
        _add(samples, drawn, logits, spec, base, on_token)
        if left == 1 or all(sample.stop_reason for sample in samples):
            break
        logits = network(input_ids=drawn.unsqueeze(-1), cache=cache, use_cache=True).logits[:, -1]
    return [sample.finished(with_top=spec.topk_sample_logprobs > 0) for sample in samples]


def _add(samples: Sequence[_Sample], drawn: Tensor, logits: Tensor, spec: SampleSpec, base: Base, on_token: OnToken | None) -> None:
    """The tokens drawn `(B,)` from `logits` `(B, V)`, to the samples that still grow."""
    distribution = torch.log_softmax(logits.float(), dim=-1)
    logprobs = distribution.gather(-1, drawn.unsqueeze(-1)).squeeze(-1).tolist()
    top = top_tokens(distribution, spec.topk_sample_logprobs) if spec.topk_sample_logprobs else [()] * len(samples)
    for sample, token, logprob, likeliest in zip(samples, drawn.tolist(), logprobs, top, strict=True):
        if sample.stop_reason:
            continue
        sample.tokens.append(token)
        sample.logprobs.append(logprob)
        sample.top.append(likeliest)
        if _ends(sample.tokens, spec, base):
            sample.stop_reason = "stop"
        if on_token:
            on_token(token, logprob)


def _ends(tokens: Sequence[int], spec: SampleSpec, base: Base) -> bool:
    if spec.stop_tokens is None and spec.stop_strings is None:
        return tokens[-1] in base.end_of_text
    return tokens[-1] in (spec.stop_tokens or ()) or _ends_in_stop_string(tokens, spec.stop_strings or (), base)


def _ends_in_stop_string(tokens: Sequence[int], stops: Sequence[str], base: Base) -> bool:
    if not stops:
        return False
    tail = 4 * max(len(stop) for stop in stops) + 4  # tokens: a character is at most four bytes, a token at least one
    text = base.tokenizer.decode(tokens[-tail:])
    return any(stop in text for stop in stops)
