"""The losses of the Tinker API, as sums over positions. Source of the formulas: openapi/tinker.yaml, ForwardBackwardInput.loss_fn.

Every function takes the model's logprobs of the targets `(N,)` and the datum's inputs `(N,)`, and gives the loss of each
position `(N,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tinkex.local.engine.base import InvalidRequest

Inputs = Mapping[str, Tensor]
Config = Mapping[str, float]

_CLIP_LOW, _CLIP_HIGH = 0.8, 1.2  # bounds of the ratio where the request names none; openapi/tinker.yaml, LossFnConfig
_CLIP_KEYS = frozenset({"clip_low_threshold", "clip_high_threshold"})


def cross_entropy(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    return -_weights(logprobs, inputs) * logprobs


def importance_sampling(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    return -_weights(logprobs, inputs) * _ratio(logprobs, inputs) * inputs["advantages"]


def ppo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    ratio, advantages = _ratio(logprobs, inputs), inputs["advantages"]
    return -_weights(logprobs, inputs) * torch.minimum(ratio * advantages, _clip(ratio, inputs, config) * advantages)


def cispo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    clipped = _clip(_ratio(logprobs, inputs), inputs, config).detach()
    return -_weights(logprobs, inputs) * clipped * logprobs * inputs["advantages"]


def _weights(logprobs: Tensor, inputs: Inputs) -> Tensor:
    return inputs["weights"] if "weights" in inputs else torch.ones_like(logprobs)


def _ratio(logprobs: Tensor, inputs: Inputs) -> Tensor:
    return torch.exp(logprobs - inputs["logprobs"])


def _clip(ratio: Tensor, inputs: Inputs, config: Config) -> Tensor:
    low = inputs.get("clip_low_threshold", torch.tensor(config.get("clip_low_threshold", _CLIP_LOW)))
    high = inputs.get("clip_high_threshold", torch.tensor(config.get("clip_high_threshold", _CLIP_HIGH)))
    return torch.minimum(torch.maximum(ratio, low), high)


LossFn = Callable[[Tensor, Inputs, Config], Tensor]
LOSSES: dict[str, LossFn] = {
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
}
_REQUIRED: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("target_tokens",),
    **dict.fromkeys(("importance_sampling", "ppo", "cispo"), ("target_tokens", "logprobs", "advantages")),
}


def find_loss(name: str, config: Config) -> LossFn:
    """Raises `InvalidRequest` for a loss, or a setting of one, that there is not."""
    if name not in LOSSES:
        raise InvalidRequest(f"unknown loss_fn {name!r}; known are {', '.join(LOSSES)}")
    unknown = sorted(config.keys() - (_CLIP_KEYS if name in ("ppo", "cispo") else frozenset()))
    if unknown:
        raise InvalidRequest(f"{name} has no setting {unknown[0]!r}")
    return LOSSES[name]


def required_inputs(loss_fn: str) -> tuple[str, ...]:
    return _REQUIRED[loss_fn]
