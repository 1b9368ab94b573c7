"""From logits to tokens: the distribution that is asked for, drawn with the request's own
randomness, for many rows at once.

All that is done to a row depends on that row alone, as far as floats allow: a seed gives the same
tokens in any company.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor

from tinkex_server.engine.interface import SampleSpec, TopTokens

_GAMMA, _MIX_1, _MIX_2 = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # SplitMix64
_BELOW_ONE = 1 - 2**-23  # times this, every float32 gets smaller


def random_key(seed: int | None, index: int) -> NDArray[np.uint64]:
    """The key `(1,)` of a random_key of uniforms: the same for the same seed and index; a new one
    without a seed.
    """
    seed = secrets.randbits(64) if seed is None else seed % 2**64
    return _mix(_mix(np.array([seed], np.uint64)) + np.uint64(index % 2**64))


def uniforms(keys: NDArray[np.uint64], steps: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The numbers, uniform in [0, 1), that streams have at these steps."""
    return (_mix(keys + (steps + np.uint64(1)) * _GAMMA) >> np.uint64(40)).astype(
        np.float32
    ) * np.float32(2**-24)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64: every bit of the result depends on every bit given."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


@frozen
class Truncation:
    """The rows from which top_k or top_p takes tokens out."""

    rows: Tensor
    top_k: Tensor  # (C, 1)
    top_p: Tensor  # (C, 1)
    max_top_k: int  # the largest top_k


@frozen
class SamplingSettings:
    """How each row of a batch is drawn: made once for as long as the rows are the same."""

    keys: NDArray[np.uint64]
    temperatures: Tensor | None  # (B, 1); None: all are 1
    greedy: Tensor | None  # (B,), bool; None: no row is
    truncation: Truncation | None

    @classmethod
    def of(
        cls,
        specs: Sequence[SampleSpec],
        keys: Sequence[NDArray[np.uint64]],
        vocab_size: int,
        device: torch.device,
    ) -> SamplingSettings:
        temperatures = [spec.temperature or 1.0 for spec in specs]
        greedy = [spec.temperature == 0 for spec in specs]
        return cls(
            np.concatenate(keys),
            torch.tensor(temperatures, device=device)[:, None]
            if set(temperatures) != {1.0}
            else None,
            torch.tensor(greedy, device=device) if any(greedy) else None,
            _truncation_of(specs, vocab_size, device),
        )


def _truncation_of(
    specs: Sequence[SampleSpec], vocab_size: int, device: torch.device
) -> Truncation | None:
    top_k = [min(spec.top_k, vocab_size) if spec.top_k > 0 else vocab_size for spec in specs]
    rows = [
        row
        for row, spec in enumerate(specs)
        if spec.temperature and (top_k[row] < vocab_size or spec.top_p < 1)
    ]
    if not rows:
        return None
    ks, ps = [top_k[row] for row in rows], [specs[row].top_p for row in rows]
    indices, top_ks, top_ps = (torch.tensor(values, device=device) for values in (rows, ks, ps))
    return Truncation(indices, top_ks[:, None], top_ps[:, None], max(ks))


def sample_tokens(
    logits: Tensor, settings: SamplingSettings, steps: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """A token a row `(B,)` from logits `(B, V)`, each at its own step, and the tokens' logprobs
    under the logits as they are.
    """
    shifted = logits.float()
    shifted = shifted - shifted.amax(dim=-1, keepdim=True)
    weights = shifted.exp()
    normalizer = weights.sum(dim=-1).log()
    if settings.temperatures is not None:
        weights = (shifted / settings.temperatures).exp()
    if settings.truncation is not None:
        weights[settings.truncation.rows] = _truncate(
            weights[settings.truncation.rows], settings.truncation
        )
    uniform = torch.from_numpy(uniforms(settings.keys, np.array(steps, np.uint64))).to(
        logits.device
    )
    tokens = pick_tokens(weights, uniform[:, None])[:, 0]
    if settings.greedy is not None:
        tokens = torch.where(settings.greedy, shifted.argmax(dim=-1), tokens)
    return tokens, shifted.gather(-1, tokens[:, None])[:, 0] - normalizer


def pick_tokens(weights: Tensor, uniform: Tensor) -> Tensor:
    """For each row of weights `(B, V)` and of uniforms `(B, K)` the tokens `(B, K)` at these places
    of the distribution.
    """
    sums = weights.cumsum(dim=-1)
    total = sums[:, -1:]
    # rounded up to the whole, it would be beyond the last token
    places = torch.minimum(uniform * total, total * _BELOW_ONE)
    return torch.searchsorted(sums, places, right=True).clamp_(max=weights.shape[-1] - 1)


def _truncate(weights: Tensor, truncation: Truncation) -> Tensor:
    """Without what top_k and then top_p leave no uniform. The likeliest token stays, and so does one
    that ties with the last.
    """
    ordered = weights.topk(truncation.max_top_k, dim=-1).values
    within = torch.arange(truncation.max_top_k, device=weights.device) < truncation.top_k
    ordered = ordered.where(within, 0.0)
    sums = ordered.cumsum(dim=-1)
    kept = within & (sums - ordered < truncation.top_p * sums[:, -1:])
    least = ordered.gather(-1, kept.sum(dim=-1, keepdim=True).clamp_(min=1) - 1)
    return weights.where(weights >= least, 0.0)


def top_tokens(logprobs: Tensor, count: int) -> list[TopTokens]:
    """The likeliest of each row of logprobs `(B, V)`, best first."""
    best = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    return [
        tuple(zip(*row, strict=True))
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
