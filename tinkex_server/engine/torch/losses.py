"""The losses of the Tinker API, as sums over positions. The formulas are those of
openapi/tinker.yaml, ForwardBackwardInput.

Each loss function takes the model's logprobs of the targets, `(N,)`, or `(N, K)` with K targets per
position, and the datum's inputs of the same shape; it returns the loss of each target in that
shape, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from tinkex_server.engine.interface import Example, InvalidRequest

Inputs = Mapping[str, Tensor]
Config = Mapping[str, float]


def cross_entropy(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    return -logprobs


def importance_sampling(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    log_ratio = torch.where(_counted(inputs), logprobs - inputs["logprobs"], 0)
    return -torch.exp(log_ratio) * inputs["advantages"]


def ppo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Computes the PPO loss of Schulman et al. 2017, arXiv:1707.06347."""
    return _clipped_loss(logprobs - inputs["logprobs"], inputs, config)


def cispo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Computes the CISPO loss of MiniMax 2025, arXiv:2506.13585."""
    clipped = _clip(torch.exp(logprobs - inputs["logprobs"]), inputs, config).detach()
    return -clipped * logprobs * inputs["advantages"]


def dro(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Computes the DRO loss of Richemond et al. 2024, arXiv:2405.19107."""
    counted = torch.full_like(logprobs, config["beta"] != 0, dtype=torch.bool)
    if "weights" in inputs:
        counted &= inputs["weights"] != 0
    distance = torch.where(counted, logprobs - inputs["logprobs"], 0)
    return config["beta"] / 2 * distance**2 - logprobs * inputs["advantages"]


def gspo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Computes the GSPO-token loss of Zheng et al. 2025, arXiv:2507.18071.

    Each position has the value of the sequence's ratio and the gradient of its own logprob.
    """
    in_ratio = inputs["sequence_ratio_mask"] != 0
    sequence = (logprobs - inputs["logprobs"])[in_ratio].mean().detach()
    return _clipped_loss(sequence + logprobs - logprobs.detach(), inputs, config)


def _clipped_loss(log_ratio: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Returns the larger of the losses with and without clipping.

    The clipped loss is a constant where it is larger, so a ratio that overflows has no gradient
    there, rather than 0 times infinity.
    """
    advantages = inputs["advantages"]
    ratio = torch.exp(log_ratio.detach())
    constant = _clip(ratio, inputs, config) * advantages
    clipped = constant < ratio * advantages
    free = torch.exp(torch.where(_counted(inputs) & ~clipped, log_ratio, 0))
    least = torch.minimum(free * advantages, _clip(free, inputs, config) * advantages)
    return -torch.where(clipped, constant, least)


def _counted(inputs: Inputs) -> Tensor:
    """Returns where neither advantage nor weight is 0; elsewhere the loss is 0 for any ratio."""
    counted = inputs["advantages"] != 0
    return counted & (inputs["weights"] != 0) if "weights" in inputs else counted


def _clip(ratio: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Clips the ratio to the bounds of each position, or else to those of the request."""
    low, high = (
        inputs[name] if name in inputs else torch.tensor(config[name], device=ratio.device)
        for name in ("clip_low_threshold", "clip_high_threshold")
    )
    return torch.minimum(torch.maximum(ratio, low), high)


@frozen
class _LossFunction:
    """A loss function, the inputs that it requires, and the default values of its settings."""

    compute: Callable[[Tensor, Inputs, Config], Tensor]
    required: tuple[str, ...] = ("target_tokens", "logprobs", "advantages")
    settings: Config = field(factory=dict[str, float])


_CLIPPING = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
LOSSES: dict[str, _LossFunction] = {
    "cross_entropy": _LossFunction(cross_entropy, ("target_tokens",)),
    "importance_sampling": _LossFunction(importance_sampling),
    "ppo": _LossFunction(ppo, settings=_CLIPPING),
    "cispo": _LossFunction(cispo, settings=_CLIPPING),
    "dro": _LossFunction(dro, settings={"beta": 0.05}),
    "gspo": _LossFunction(
        gspo, ("target_tokens", "logprobs", "advantages", "sequence_ratio_mask"), _CLIPPING
    ),
}


@frozen
class NamedLoss:
    """A loss of the Tinker API with all of its settings."""

    name: str
    config: Config

    def check(self, index: int, example: Example) -> None:
        """Raises `InvalidRequest` for an input that is missing or differs in shape from the
        targets.
        """
        where, inputs = f"data[{index}].loss_fn_inputs", example.loss_inputs
        for name in LOSSES[self.name].required:
            if name not in inputs:
                raise InvalidRequest(f"{where} lacks {name!r}, which {self.name} needs")
        shape = inputs["target_tokens"].shape
        for name, value in inputs.items():
            if value.shape != shape:
                raise InvalidRequest(
                    f"{where}[{name!r}] has the shape {list(value.shape)}, but the targets have "
                    f"{list(shape)}"
                )
        if self.name == "gspo" and not inputs["sequence_ratio_mask"].any():
            raise InvalidRequest(
                f"{where}['sequence_ratio_mask'] is 0 everywhere: gspo needs at least one "
                "token to compute the ratio from"
            )

    def __call__(
        self, logprobs: Tensor, index: int, example: Example
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the losses of a datum's targets, in their shape, and no metrics."""
        inputs = _tensors(example, logprobs)
        losses = LOSSES[self.name].compute(logprobs, inputs, self.config)
        if "weights" in inputs:
            losses = torch.where(inputs["weights"] != 0, losses * inputs["weights"], 0)
        return losses, {}


def _tensors(example: Example, like: Tensor) -> dict[str, Tensor]:
    return {
        name: torch.as_tensor(np.array(value, dtype=np.float32), device=like.device)
        for name, value in example.loss_inputs.items()
        if name != "target_tokens"
    }


def find_loss(name: str, config: Config) -> NamedLoss:
    """Returns a loss by name. Raises `InvalidRequest` for an unknown loss or an unknown setting."""
    if name not in LOSSES:
        raise InvalidRequest(f"unknown loss_fn {name!r}; it must be one of {', '.join(LOSSES)}")
    settings = LOSSES[name].settings
    if unknown := sorted(config.keys() - settings.keys()):
        raise InvalidRequest(
            f"{name} has no setting {unknown[0]!r}; its settings: {', '.join(settings) or 'none'}"
        )
    return NamedLoss(name, {**settings, **config})
