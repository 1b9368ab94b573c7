"""Which layers the switches of a LoRA adapter stand for.

The output layer is the one that the model says it is; the others go by the names that transformers gives them in models of all kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from tinkex.local.engine.base import InvalidRequest, LoraShape

L = TypeVar("L", bound=nn.Module)

_FUSED_OR_NOT = {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "query_key_value", "dense"}
_COMPRESSED = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"}
_GATED = {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3"}
_PLAIN = {"fc1", "fc2", "fc_in", "fc_out", "c_fc", "c_proj", "dense_h_to_4h", "dense_4h_to_h"}
_NAMES: Mapping[str, frozenset[str]] = {
    "train_attn": frozenset(_FUSED_OR_NOT | _COMPRESSED),
    "train_mlp": frozenset(_GATED | _PLAIN),
}


def chosen(model: Any, linears: Mapping[str, L], shape: LoraShape) -> dict[str, L]:
    """Returns those of the model's linear layers that are to be trained.

    Raises `InvalidRequest` when a switch that is on would train nothing, or a part alone of what it stands for: nobody would notice.
    """
    head = model.get_output_embeddings()
    layers = {switch: {name for name in linears if _last(name) in names} for switch, names in _NAMES.items()}
    layers["train_unembed"] = {name for name, layer in linears.items() if layer is head}
    wanted: set[str] = set()
    for switch, of_it in layers.items():
        if not getattr(shape, switch):
            continue
        if not of_it or _has_experts(model, _NAMES.get(switch, frozenset())):
            raise InvalidRequest(f"{switch} must be false for this model: {_why(linears, of_it)}")
        wanted |= of_it
    if not wanted:
        raise InvalidRequest("nothing is to be trained: one of train_attn, train_mlp and train_unembed must be true")
    return {name: layer for name, layer in linears.items() if name in wanted}


def _why(linears: Mapping[str, object], layers: set[str]) -> str:
    if layers:
        return "it has experts, which cannot be trained here"
    return f"none of its linear layers is known to be such a one, of {', '.join(sorted({_last(name) for name in linears}))}"


def _has_experts(model: Any, names: frozenset[str]) -> bool:
    """Whether there are such layers that are many in one: a matrix for each expert of a mixture."""
    return any(weight.ndim == 3 and _last(name) in names for name, weight in model.named_parameters())


def _last(name: str) -> str:
    return name.rpartition(".")[2]
