"""`Adapter`: the weights of one LoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional


class LayerWeights(NamedTuple):
    """The weights of an adapter on one layer, which adds `input @ A.T @ B.T`, scaled (Hu et al.
    2021, arXiv:2106.09685).
    """

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)

    def output(self, input: Tensor) -> Tensor:
        """Returns what the adapter adds to the layer's output, not scaled yet."""
        return functional.linear(functional.linear(input.to(self.a.dtype), self.a), self.b)


@frozen
class LayerShape:
    """The shape of what an adapter adds to: a linear layer, or the same layer of several experts,
    each of which has an adapter of its own.
    """

    inputs: int
    outputs: int
    experts: int
    """1: a linear layer."""
    device: torch.device


@frozen(eq=False)
class Adapter:
    """The weights of one adapter, by the full names of its layers."""

    rank: int
    alpha: float
    layers: Mapping[str, LayerWeights]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    @cached_property
    def linear_layers(self) -> Mapping[str, LayerWeights]:
        """The layers that are not those of experts, whose weights are `experts` times as large:
        A `(experts * rank, in)` and B `(out, rank * experts)`, as in peft.
        """
        return {name: pair for name, pair in self.layers.items() if len(pair.a) == self.rank}

    @cached_property
    def bytes_per_rank(self) -> int:
        """The bytes of the weights of linear layers, divided by the rank."""
        return sum(
            (a.shape[1] + b.shape[0]) * a.element_size() for a, b in self.linear_layers.values()
        )

    def named_weights(self) -> dict[str, Tensor]:
        """Returns the weights by peft's names, in the same order for all adapters of one shape."""
        return {
            f"base_model.model.{name}.lora_{letter}.weight": weight
            for name, weights in self.layers.items()
            for letter, weight in zip("AB", weights, strict=True)
        }

    @torch.no_grad()
    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies weights of these names into the adapter's tensors, which stay the same objects."""
        for name, own in self.named_weights().items():
            own.copy_(weights[name])
