"""Sampling of tokens from logits, for many rows at once, with random numbers of each request's own.

A row's result depends on that row alone, up to rounding: a seed gives the same tokens in any batch.
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
_BELOW_ONE = 1 - 2**-23  # a factor that makes every float32 smaller


def random_key(seed: int | None, index: int) -> NDArray[np.uint64]:
    """Returns the key `(1,)`, uint64, of a random stream: the same for the same seed and index, a
    new one without a seed.
    """
    seed = secrets.randbits(64) if seed is None else seed % 2**64
    return _mix(_mix(np.array([seed], np.uint64)) + np.uint64(index % 2**64))


def uniforms(keys: NDArray[np.uint64], steps: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Returns the random numbers in [0, 1) that streams `(B,)` have at these steps, float32."""
    return (_mix(keys + (steps + np.uint64(1)) * _GAMMA) >> np.uint64(40)).astype(
        np.float32
    ) * np.float32(2**-24)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mixes bits by SplitMix64 (Steele et al. 2014), so that every output bit depends on every
    input bit.
    """
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


@frozen
class Truncation:
    """The rows that top_k or top_p truncates."""

    rows: Tensor
    top_k: Tensor  # (C, 1)
    top_p: Tensor  # (C, 1)
    max_top_k: int  # the largest top_k


@frozen
class SamplingSettings:
    """The sampling settings of each row of a batch, prepared once for as long as the rows are the
    same.
    """

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
    """Returns a token for each row `(B,)`, int64, from logits `(B, V)`, each at its own step, and
    its logprob under the unmodified logits, float32.
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
    """Returns the tokens `(B, K)` at the quantiles `uniform` `(B, K)` of the distributions given by
    weights `(B, V)`.
    """
    sums = weights.cumsum(dim=-1)
    total = sums[:, -1:]
    # a product rounded up to the total would be beyond the last token
    places = torch.minimum(uniform * total, total * _BELOW_ONE)
    return torch.searchsorted(sums, places, right=True).clamp_(max=weights.shape[-1] - 1)


def _truncate(weights: Tensor, truncation: Truncation) -> Tensor:
    """Zeroes the weights that top_k and then top_p exclude. The most likely token stays, and so do
    ties with the last one.
    """
    ordered = weights.topk(truncation.max_top_k, dim=-1).values
    within = torch.arange(truncation.max_top_k, device=weights.device) < truncation.top_k
    ordered = ordered.where(within, 0.0)
    sums = ordered.cumsum(dim=-1)
    kept = within & (sums - ordered < truncation.top_p * sums[:, -1:])
    least = ordered.gather(-1, kept.sum(dim=-1, keepdim=True).clamp_(min=1) - 1)
    return weights.where(weights >= least, 0.0)


def top_tokens(logprobs: Tensor, count: int) -> list[TopTokens]:
    """Returns the most likely tokens of each row of logprobs `(B, V)`, the best first."""
    best = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
    return [
        tuple(zip(*row, strict=True))
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
