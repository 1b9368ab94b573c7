"""LoRA on the experts of a mixture: one adapter for each expert, on the fused tensors in which
transformers keeps all experts of a layer, in peft's names and layout.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from tinkex_server.engine.torch.adapter import Adapter, LayerShape, LayerWeights
from tinkex_server.engine.torch.mixed_adapters import AdapterPlan, CurrentPlan, MixedAdapters

FIRST_TENSORS, LAST_TENSOR = ("up_proj", "gate_up_proj"), "down_proj"
"""The names of the two tensors that a module of experts has."""
_INTERFACE = ("has_gate", "has_bias", "is_transposed", "num_experts")
"""The attributes of modules of experts that transformers computes by its `ExpertsInterface`."""
_DENSE = "Llama4TextExperts"
"""The class of experts that each compute all tokens, of which the router sets to zero those that
are not theirs."""
_DIMENSIONS = 3


@frozen(eq=False)
class ExpertLayer:
    """One fused tensor `(experts, ...)`, which takes an adapter for each expert."""

    module: Any
    parameter: str
    full_name: str
    """The parameter's name in the model."""

    @property
    def weight(self) -> Tensor:
        return getattr(self.module, self.parameter)

    @property
    def shape(self) -> LayerShape:
        experts, first, second = self.weight.shape
        inputs, outputs = (first, second) if _is_transposed(self.module) else (second, first)
        return LayerShape(inputs, outputs, experts, self.weight.device)

    def change(self, weights: LayerWeights) -> Tensor:
        """Returns what an adapter adds to the tensor, not scaled yet, in float32."""
        a, b = _by_expert(weights, self.shape.experts)
        added = torch.stack([two.float() @ one.float() for one, two in zip(a, b, strict=True)])
        return added.mT if _is_transposed(self.module) else added


def expert_layers(model: nn.Module) -> dict[str, ExpertLayer]:
    """Returns the fused tensors of experts that can take adapters, by the names of their layers in
    peft, which wraps the module once for each of its tensors.
    """
    return {
        name: layer
        for place, module in model.named_modules()
        if _is_adaptable(module)
        for name, layer in _layers_of(module, place)
    }


def _is_adaptable(module: Any) -> bool:
    if not _is_dense(module) and not all(hasattr(module, name) for name in _INTERFACE):
        return False
    tensors = [getattr(module, name, None) for name in (_first_of(module), LAST_TENSOR)]
    # peft would take a single expert for a plain layer
    return module.num_experts > 1 and all(
        isinstance(one, nn.Parameter) and one.ndim == _DIMENSIONS for one in tensors
    )


def _is_dense(module: Any) -> bool:
    return type(module).__name__ == _DENSE


def _is_transposed(module: Any) -> bool:
    """Returns whether peft takes the tensors as `(experts, in, out)`. Without the attribute it
    takes them for `(experts, out, in)`, whatever the module does.
    """
    return getattr(module, "is_transposed", False)


def _first_of(module: Any) -> str:
    return FIRST_TENSORS[getattr(module, "has_gate", True)]


def _layers_of(module: Any, place: str) -> Iterator[tuple[str, ExpertLayer]]:
    first = _first_of(module)
    yield f"{place}.base_layer", ExpertLayer(module, first, f"{place}.{first}")
    yield place, ExpertLayer(module, LAST_TENSOR, f"{place}.{LAST_TENSOR}")


def wrap_experts(layers: Mapping[str, ExpertLayer], current: CurrentPlan) -> None:
    """Lets the modules of these layers add the output of the adapters in the current plan."""
    by_module: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        by_module.setdefault(layer.module, []).append(name)
    for module, (first, down) in by_module.items():
        adapted = _LoraDenseExperts if _is_dense(module) else _LoraExperts
        module.forward = adapted(module, module.forward, first, down, current)


@frozen(eq=False)
class _LoraExperts:
    """The forward pass of a module of experts, with adapters.

    Pairs of a token and one of its experts are sorted by expert, as in transformers' own
    implementations of its `ExpertsInterface`, whose contract this follows.
    """

    _module: Any
    _without_adapters: Any
    _first: str
    _down: str
    _current: CurrentPlan

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        plan = self._current.plan
        if not any(self._adapts(adapter) for adapter in _adapters_of(plan)):
            return self._without_adapters(hidden_states, top_k_index, top_k_weights)
        module, chosen = self._module, top_k_index.shape[-1]
        experts, order = top_k_index.reshape(-1).sort()
        tokens = order // chosen
        pairs = _Pairs(experts, module.num_experts, _adapted_pairs(plan, tokens, hidden_states))
        states = self._project(self._first, _first_of(module), hidden_states[tokens], pairs)
        states = module._apply_gate(states) if module.has_gate else module.act_fn(states)
        states = self._project(self._down, LAST_TENSOR, states, pairs)
        if getattr(module, "has_post_expert_norm", False):
            states = module.post_expert_norm(states)
        weighted = states * top_k_weights.reshape(-1)[order, None]
        in_order = weighted.new_empty(weighted.shape).index_copy(0, order, weighted)
        summed = in_order.view(len(hidden_states), chosen, -1).sum(dim=1)
        return summed.to(hidden_states.dtype)

    def _adapts(self, adapter: Adapter) -> bool:
        return self._first in adapter.layers or self._down in adapter.layers

    def _project(self, name: str, parameter: str, input: Tensor, pairs: _Pairs) -> Tensor:
        """Returns the output of each pair's expert, with what the adapters add."""
        module = self._module
        weight = getattr(module, parameter)
        matrices = (weight if module.is_transposed else weight.mT).unbind()
        output = _by_group(input, pairs.counts(), matrices)
        if module.has_bias:
            output = output + getattr(module, f"{parameter}_bias")[pairs.experts]
        for adapter, index in pairs.adapted:
            if (weights := adapter.layers.get(name)) is None:
                continue
            a, b = _by_expert(weights, module.num_experts)
            own = (input if index is None else input[index]).to(weights.a.dtype)
            counts = pairs.counts(index)
            low = _by_group(own, counts, [matrix.T for matrix in a])
            added = _by_group(low, counts, [matrix.T for matrix in b]) * adapter.scaling
            added = added.to(output.dtype)
            output = output + added if index is None else output.index_add(0, index, added)
        return output


@frozen(eq=False)
class _LoraDenseExperts:
    """The forward pass of a module of experts of Llama 4, with adapters: each expert computes all
    tokens, in the order of the tokens, expert by expert.
    """

    _module: Any
    _without_adapters: Any
    _first: str
    _down: str
    _current: CurrentPlan

    def __call__(self, hidden_states: Tensor) -> Tensor:
        plan = self._current.plan
        names = self._first, self._down
        if not any(name in one.layers for one in _adapters_of(plan) for name in names):
            return self._without_adapters(hidden_states)
        module = self._module
        states = hidden_states.view(module.num_experts, -1, hidden_states.shape[-1])
        tokens = torch.arange(states.shape[1], device=states.device)
        adapted = _adapted_pairs(plan, tokens, states[0])
        gate, up = self._project(self._first, _first_of(module), states, adapted).chunk(2, dim=-1)
        states = self._project(self._down, LAST_TENSOR, up * module.act_fn(gate), adapted)
        return states.reshape(-1, states.shape[-1])

    def _project(
        self,
        name: str,
        parameter: str,
        input: Tensor,
        adapted: Sequence[tuple[Adapter, Tensor | None]],
    ) -> Tensor:
        """Returns the output of all experts, `(experts, tokens, out)`, with what the adapters
        add.
        """
        output = torch.bmm(input, getattr(self._module, parameter))
        for adapter, index in adapted:
            if (weights := adapter.layers.get(name)) is None:
                continue
            parts = _by_expert(weights, self._module.num_experts)
            a, b = (torch.stack(list(part)) for part in parts)
            left, right = (a.mT, b.mT) if _is_transposed(self._module) else (b, a)
            own = (input if index is None else input[:, index]).to(a.dtype)
            added = (own @ left @ right * adapter.scaling).to(output.dtype)
            output = output + added if index is None else output.index_add(1, index, added)
        return output


@frozen(eq=False)
class _Pairs:
    """Pairs of a token and one of its experts, sorted by expert."""

    experts: Tensor
    _number_of_experts: int
    adapted: Sequence[tuple[Adapter, Tensor | None]]
    """Each adapter with the places of its pairs; None: all of them."""

    def counts(self, index: Tensor | None = None) -> list[int]:
        """Returns how many pairs, of all or of those at `index`, each expert has."""
        experts = self.experts if index is None else self.experts[index]
        return experts.bincount(minlength=self._number_of_experts).tolist()


def _adapters_of(plan: AdapterPlan) -> Sequence[Adapter]:
    if isinstance(plan, MixedAdapters):
        return plan.adapters
    return [] if plan is None else [plan]


def _adapted_pairs(
    plan: AdapterPlan, tokens: Tensor, hidden_states: Tensor
) -> Sequence[tuple[Adapter, Tensor | None]]:
    """Returns each adapter with the places of its pairs; `tokens` are those of the pairs, counted
    through all rows.
    """
    if not isinstance(plan, MixedAdapters):
        return [] if plan is None else [(plan, None)]
    of_row = plan.adapter_of_row
    of_pair = of_row[tokens // (len(hidden_states) // len(of_row))]
    return [
        (adapter, (of_pair == place).nonzero()[:, 0]) for place, adapter in enumerate(plan.adapters)
    ]


def _by_expert(weights: LayerWeights, experts: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Returns the matrices A `(rank, in)` and B `(out, rank)` of each expert: peft has those of an
    expert in consecutive rows of A, and in every `experts`-th column of B.
    """
    a = weights.a.view(experts, -1, weights.a.shape[-1])
    b = weights.b.view(len(weights.b), -1, experts)
    return a.unbind(), b.unbind(-1)


def _by_group(input: Tensor, counts: Sequence[int], matrices: Sequence[Tensor]) -> Tensor:
    """Returns the products of consecutive groups of rows, of these sizes, with a matrix each."""
    products = [
        rows @ matrix
        for rows, matrix in zip(input.split(list(counts)), matrices, strict=True)
        if len(rows)
    ]
    if not products:
        return input.new_empty(0, matrices[0].shape[-1])
    return torch.cat(products)
