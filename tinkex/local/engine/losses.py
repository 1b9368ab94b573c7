"""The losses of the Tinker API, as sums over positions. Source of the formulas: openapi/tinker.yaml, ForwardBackwardInput.loss_fn.

Every function takes the model's logprobs of the targets `(N,)` and the datum's inputs `(N,)`, and gives the loss of each
position `(N,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from tinkex.local.engine.base import Example, InvalidRequest

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


@frozen
class NamedLoss:
    """One of the losses above, with the request's settings."""

    name: str
    config: Config

    def check(self, index: int, example: Example) -> None:
        """Raises `InvalidRequest` for an input that is missing or has not one value a position."""
        for name in _REQUIRED[self.name]:
            if name not in example.loss_inputs:
                raise InvalidRequest(f"data[{index}].loss_fn_inputs lacks {name!r}, which {self.name} needs")
        for name, value in example.loss_inputs.items():
            if value.shape != example.tokens.shape:
                raise InvalidRequest(
                    f"data[{index}].loss_fn_inputs[{name!r}] is of shape {list(value.shape)}, not {list(example.tokens.shape)}"
                )

    def __call__(self, logprobs: Tensor, index: int, example: Example) -> tuple[Tensor, Mapping[str, float]]:
        """The losses of a datum's positions `(N,)`, and no metrics."""
        return LOSSES[self.name](logprobs, _tensors(example, logprobs), self.config), {}


def _tensors(example: Example, like: Tensor) -> dict[str, Tensor]:
    return {
        name: torch.as_tensor(np.array(value, dtype=np.float32), device=like.device)
        for name, value in example.loss_inputs.items()
        if name != "target_tokens"
    }


def find_loss(name: str, config: Config) -> NamedLoss:
    """Raises `InvalidRequest` for a loss, or a setting of one, that there is not."""
    if name not in LOSSES:
        raise InvalidRequest(f"unknown loss_fn {name!r}; known are {', '.join(LOSSES)}")
    unknown = sorted(config.keys() - (_CLIP_KEYS if name in ("ppo", "cispo") else frozenset()))
    if unknown:
        raise InvalidRequest(f"{name} has no setting {unknown[0]!r}")
    return NamedLoss(name, config)
