"""LoRA on the linear layers of a frozen model, with several adapters in one batch, each on its own
rows; new adapters for these and for experts.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinkex_server.engine.torch.adapter import Adapter, LayerShape, LayerWeights
from tinkex_server.engine.torch.mixed_adapters import CurrentPlan


class LoraLinear(nn.Linear):
    """A linear layer with adapters: it replaces an `nn.Linear`, keeps its parameters, and adds the
    output of the adapters in the current plan.
    """

    def __init__(self, linear: nn.Linear, name: str, current: CurrentPlan) -> None:
        nn.Module.__init__(self)  # nn.Linear.__init__ would allocate new weights
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._name, self._current = name, current

    @property
    def shape(self) -> LayerShape:
        return LayerShape(self.in_features, self.out_features, 1, self.weight.device)

    def forward(self, input: Tensor) -> Tensor:
        plan = self._current.plan
        if isinstance(plan, Adapter):
            return self._forward_adapted(plan, input)
        output = functional.linear(input, self.weight, self.bias)
        if plan is not None and (added := plan.added_output(self._name, input)) is not None:
            output.add_(added.to(output.dtype))
        return output

    def _forward_adapted(self, adapter: Adapter, input: Tensor) -> Tensor:
        weights = adapter.layers.get(self._name)
        if weights and torch.is_grad_enabled():
            return _LoraFunction.apply(input, self.weight, self.bias, *weights, adapter.scaling)
        output = functional.linear(input, self.weight, self.bias)
        # the same result, much cheaper for few rows, since no gradient is needed
        if weights:
            output.add_(weights.output(input).to(output.dtype), alpha=adapter.scaling)
        return output


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
        # no view of another tensor: some models add to it in place
        output = functional.linear(input, weight, bias)
        _add_product(output.view(-1, output.shape[-1]), low, b.T, scaling)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scaling, ctx.shape = scaling, input.shape
        return output

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
    layers: Mapping[str, LayerShape], rank: int, alpha: float, seed: int | None
) -> Adapter:
    """Returns a trainable adapter that has no effect yet. With a seed, its initial weights are
    those of peft, which draws them for linear layers before those of experts.
    """
    random = torch.Generator()
    if seed is None:
        random.seed()
    else:
        random.manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=random)

    def weights(layer: LayerShape) -> LayerWeights:
        ranks = rank * layer.experts
        shape_a, shape_b = (ranks, layer.inputs), (layer.outputs, ranks)
        # peft initializes both matrices, and A a second time
        _unused = drawn(*shape_a), drawn(*shape_b)
        return LayerWeights(
            *(
                nn.Parameter(weight.to(layer.device))
                for weight in (drawn(*shape_a), torch.zeros(shape_b))
            )
        )

    return Adapter(rank, alpha, {name: weights(layer) for name, layer in layers.items()})
