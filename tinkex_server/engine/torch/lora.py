"""LoRA on the linear layers of a frozen model, with several adapters in one batch, each on its own
rows.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from attrs import define, frozen
from torch import Tensor, nn
from torch.nn import functional


class LayerWeights(NamedTuple):
    """The weights of an adapter on one layer, which adds `input @ A.T @ B.T`, scaled (Hu et al.
    2021, arXiv:2106.09685).
    """

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)


@frozen(eq=False)
class Adapter:
    """The weights of one adapter, by the full names of its layers."""

    rank: int
    alpha: float
    layers: Mapping[str, LayerWeights]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

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


AdapterPlan: TypeAlias = Adapter | Sequence[tuple[Tensor, Adapter]]
"""The adapters of a batch: one for all rows, or rows with an adapter each; other rows have none."""


def plan_adapters(adapters: Sequence[Adapter | None], device: torch.device) -> AdapterPlan:
    """Returns the plan of a batch whose rows have these adapters."""
    rows = defaultdict[Adapter, list[int]](list)
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            rows[adapter].append(row)
    if len(rows) == 1 and None not in adapters:
        return next(iter(rows))
    return [(torch.tensor(own, device=device), adapter) for adapter, own in rows.items()]


@define(eq=False)
class CurrentPlan:
    """The plan of the current forward pass, shared by all layers of a model."""

    plan: AdapterPlan = ()


class LoraLinear(nn.Linear):
    """A linear layer with adapters: it replaces an `nn.Linear`, keeps its parameters, and adds the
    output of the adapters in the current plan.
    """

    def __init__(self, linear: nn.Linear, name: str, current: CurrentPlan) -> None:
        nn.Module.__init__(self)  # nn.Linear.__init__ would allocate new weights
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._name, self._current = name, current

    def forward(self, input: Tensor) -> Tensor:
        plan = self._current.plan
        if isinstance(plan, Adapter):
            return self._forward_adapted(plan, input)
        output = functional.linear(input, self.weight, self.bias)
        for rows, adapter in plan:
            if weights := adapter.layers.get(self._name):
                output.index_add_(
                    0,
                    rows,
                    _lora_output(input.index_select(0, rows), weights).to(output.dtype),
                    alpha=adapter.scaling,
                )
        return output

    def _forward_adapted(self, adapter: Adapter, input: Tensor) -> Tensor:
        weights = adapter.layers.get(self._name)
        if weights and torch.is_grad_enabled():
            return _LoraFunction.apply(input, self.weight, self.bias, *weights, adapter.scaling)
        output = functional.linear(input, self.weight, self.bias)
        # the same result, much cheaper for few rows, since no gradient is needed
        if weights:
            output.add_(_lora_output(input, weights).to(output.dtype), alpha=adapter.scaling)
        return output


def _lora_output(input: Tensor, weights: LayerWeights) -> Tensor:
    return functional.linear(functional.linear(input.to(weights.a.dtype), weights.a), weights.b)


class _LoraFunction(torch.autograd.Function):
    """A linear layer with one adapter on all rows, as a single node of the autograd graph.

    The scaling is applied to the smaller tensors, and the adapter's part of the output and of the
    input's gradient is accumulated by the matrix product itself.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        low = rows.to(a.dtype) @ a.T
        output = _add_product(functional.linear(rows, weight, bias), low, b.T, scaling)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scaling, ctx.shape = scaling, input.shape
        return output.view(*input.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, low, weight, a, b = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        precise = gradient.to(a.dtype)
        grad_low = (precise @ b).mul_(ctx.scaling)
        grad_a, grad_b = grad_low.T @ rows.to(a.dtype), (low.T @ precise).mul_(ctx.scaling).T
        grad_input = None
        if ctx.needs_input_grad[0]:
            grad_input = _add_product(gradient @ weight, grad_low, a).view(ctx.shape)
        return grad_input, None, None, grad_a, grad_b, None


def _add_product(sum: Tensor, left: Tensor, right: Tensor, scaling: float = 1.0) -> Tensor:
    """Adds `left @ right`, scaled, to `sum` in place, in the precision of `sum`."""
    if sum.dtype == left.dtype:
        return sum.addmm_(left, right, alpha=scaling)
    return sum.add_((left @ right).to(sum.dtype), alpha=scaling)


def wrap_linears(
    model: nn.Module, within: set[nn.Module], current: CurrentPlan
) -> dict[str, LoraLinear]:
    """Replaces every linear layer of the model that is in `within` by a `LoraLinear`; returns them
    by full name.

    Layers with a forward pass of their own (a router of experts, a head that scales) are left
    alone.
    """
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module in within
    }
    linears = {
        name: module
        for name, module in modules.items()
        if type(module).forward is nn.Linear.forward
    }
    wrapped = {name: LoraLinear(linear, name, current) for name, linear in linears.items()}
    for name, layer in wrapped.items():
        model.set_submodule(name, layer)
    return wrapped


def new_adapter(
    layers: Mapping[str, nn.Linear], rank: int, alpha: float, seed: int | None
) -> Adapter:
    """Returns a trainable adapter that has no effect yet. With a seed, its initial weights are
    those of peft.
    """
    random = torch.Generator()
    if seed is None:
        random.seed()
    else:
        random.manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=random)

    def weights(layer: nn.Linear) -> LayerWeights:
        shape_a, shape_b = (rank, layer.in_features), (layer.out_features, rank)
        # peft initializes both matrices, and A a second time
        _unused = drawn(*shape_a), drawn(*shape_b)
        return LayerWeights(
            *(
                nn.Parameter(weight.to(layer.weight.device))
                for weight in (drawn(*shape_a), torch.zeros(shape_b))
            )
        )

    return Adapter(rank, alpha, {name: weights(layer) for name, layer in layers.items()})
