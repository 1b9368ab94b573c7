"""LoRA on the linear layers of a frozen model: many adapters at once, each on the rows of a batch
that are its own.
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
    """What an adapter adds to one layer: `input @ A.T @ B.T`, scaled."""

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)


@frozen(eq=False)
class Adapter:
    """The weights of one adapter, by the full names of the layers that they are on."""

    rank: int
    alpha: float
    layers: Mapping[str, LayerWeights]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def named_weights(self) -> dict[str, Tensor]:
        """By the names that peft gives them in a file; the same ones, in the same order, for every
        adapter of one shape.
        """
        return {
            f"base_model.model.{name}.lora_{letter}.weight": weight
            for name, weights in self.layers.items()
            for letter, weight in zip("AB", weights, strict=True)
        }

    @torch.no_grad()
    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies weights of these names into the adapter's own, which stay the same objects."""
        for name, own in self.named_weights().items():
            own.copy_(weights[name])


AdapterPlan: TypeAlias = Adapter | Sequence[tuple[Tensor, Adapter]]
"""One adapter for a whole batch, or which rows get which; those that are not named get none."""


def plan_adapters(adapters: Sequence[Adapter | None], device: torch.device) -> AdapterPlan:
    """The plan for a batch whose rows have these adapters."""
    rows = defaultdict[Adapter, list[int]](list)
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            rows[adapter].append(row)
    if len(rows) == 1 and None not in adapters:
        return next(iter(rows))
    return [(torch.tensor(own, device=device), adapter) for adapter, own in rows.items()]


@define(eq=False)
class CurrentPlan:
    """The plan of the forward pass that runs; all layers of a model read the same one."""

    plan: AdapterPlan = ()


class LoraLinear(nn.Linear):
    """Takes the place of a linear layer, whose parameters it keeps, and adds what the current plan
    says.
    """

    def __init__(self, linear: nn.Linear, name: str, current: CurrentPlan) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would make new weights
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
        # the same, for much less where there are few rows: nothing is kept for a way back
        if weights:
            output.add_(_lora_output(input, weights).to(output.dtype), alpha=adapter.scaling)
        return output


def _lora_output(input: Tensor, weights: LayerWeights) -> Tensor:
    return functional.linear(functional.linear(input.to(weights.a.dtype), weights.a), weights.b)


class _LoraFunction(torch.autograd.Function):
    """A linear layer with an adapter on all rows, as one node of the graph.

    What is small is scaled rather than what is large, and what the adapter adds, to the output and
    to the gradient of the input, is added by the multiplication that makes it.
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
    """`sum`, in place and in its own precision, with `left @ right` scaled."""
    if sum.dtype == left.dtype:
        return sum.addmm_(left, right, alpha=scaling)
    return sum.add_((left @ right).to(sum.dtype), alpha=scaling)


def wrap_linears(
    model: nn.Module, within: set[nn.Module], current: CurrentPlan
) -> dict[str, LoraLinear]:
    """Puts a `LoraLinear` in the place of every linear layer of the model that is `within`; returns
    them by their full names.

    A layer that computes something of its own (a router of experts, a head that scales) stays as it
    is.
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
    """One that can be trained, and changes nothing until it is. A seed gives it the weights that
    peft would.
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
        # peft draws both when it makes them, and A once more
        _unused = drawn(*shape_a), drawn(*shape_b)
        return LayerWeights(
            *(
                nn.Parameter(weight.to(layer.weight.device))
                for weight in (drawn(*shape_a), torch.zeros(shape_b))
            )
        )

    return Adapter(rank, alpha, {name: weights(layer) for name, layer in layers.items()})
