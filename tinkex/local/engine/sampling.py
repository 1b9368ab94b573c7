"""From logits to tokens: the distribution that is asked for, drawn with the request's own randomness."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinkex.local.engine.base import SampleSpec, TopTokens


def generators(seed: int | None, count: int) -> list[torch.Generator]:
    """One stream a sample; with a seed, the same streams whatever else is sampled before or beside."""
    return [generator(seed, index) for index in range(count)]


def generator(seed: int | None, index: int) -> torch.Generator:
    stream = torch.Generator()
    if seed is None:
        stream.seed()
    else:
        stream.manual_seed((seed * 1_000_003 + index) % 2**63)
    return stream


def top_tokens(logprobs: Tensor, count: int) -> list[TopTokens]:
    """The likeliest of each row of logprobs `(B, V)`, best first."""
    best = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    return [tuple(zip(*row, strict=True)) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def draw(logits: Tensor, spec: SampleSpec, streams: Sequence[torch.Generator]) -> Tensor:
    """One token a row `(B,)` from logits `(B, V)`; the likeliest one at temperature 0."""
    if spec.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(_truncate(logits.float() / spec.temperature, spec.top_k, spec.top_p), dim=-1).cpu()
    rows = [torch.multinomial(row, 1, generator=stream) for row, stream in zip(probabilities, streams, strict=True)]
    return torch.cat(rows).to(logits.device)


def _truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Takes out what top_k and top_p leave no chance; the likeliest token always stays."""
    if 0 < top_k < logits.shape[-1]:
        smallest = torch.topk(logits, top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        out = (before >= top_p).scatter(-1, order, before >= top_p)
        out.scatter_(-1, order[:, :1], False)
        logits = logits.masked_fill(out, -torch.inf)
    return logits
