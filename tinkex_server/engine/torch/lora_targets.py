"""The layers that the switches of a LoRA adapter stand for, in models of all kinds.

The output layer is the one that the model names. The other layers are recognised by their position,
since their own names say less (`gate_proj` is part of the attention in some kinds): attention
layers are in a module whose name, or else its class, says so, MLP layers in one of a few. What
takes the place of the attention in some layers of hybrids, such as Mamba, counts as attention.
Routers, which choose experts, are not trained.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from torch import Tensor, nn

from tinkex_server.engine.interface import InvalidRequest, LoraShape
from tinkex_server.engine.torch.adapter import LayerShape
from tinkex_server.engine.torch.experts import ExpertLayer
from tinkex_server.engine.torch.lora import LoraLinear

_IN_LAYER = r"\.\d+\.(\w+\.)*"
_PLACES: Mapping[str, re.Pattern[str]] = {
    "train_attn": re.compile(_IN_LAYER + r"\w*(attn|attention)\w*\."),
    "train_mlp": re.compile(
        _IN_LAYER
        # the last two are BERT's
        + r"((mlp|ffn|feed_?forward|\w*_mlp|\w*moe|intermediate|output)\."
        + r"|(fc1|fc2)(\.|$))"  # OPT's
    ),
}
_CLASSES: Mapping[str, re.Pattern[str]] = {
    "train_attn": re.compile("Attention|Mamba|Mixer|DeltaNet|ShortConv"),
    "train_mlp": re.compile("MLP|MoE|Moe|Experts"),
}
"""Words in the class of a module, for those whose names do not say what they are, as `mixer`."""
_ROUTER = re.compile(r"\.(gate|router)(\.\w+)*$")
_BYPASSED: Mapping[str, frozenset[str]] = {
    "out_proj": frozenset(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")),
    "dt_proj": frozenset(("jamba",)),
}
"""Layers whose weights the code of these kinds uses directly, so that an adapter would have no
effect, and peft refuses some of them; by their last names."""
_LOST: Mapping[str, str] = {"laguna": "shared_experts"}
"""Layers whose names peft changes to others when it reads an adapter for these kinds, because of
the pattern by which transformers renames those of older files."""
_NOT_A_LAYER = "A_log"  # the decay of a state space, a matrix in some kinds
_UNEMBED = "train_unembed"
_MATRIX = 2  # dimensions; merged experts have more


def choose_layers(
    model: Any,
    within: Set[nn.Module],
    layers: Mapping[str, LoraLinear | ExpertLayer],
    shape: LoraShape,
) -> dict[str, LayerShape]:
    """Returns the layers to be trained, of those that can take adapters. `within` holds the modules
    that text passes through.

    Raises `InvalidRequest` if a switch that is on would train nothing, or only a part of its
    layers.
    """
    head = model.get_output_embeddings()
    left_out = _routers(layers) | _bypassed(model, layers)
    switches = {
        name: _UNEMBED if layer is head else _switch(model, name)
        for name, layer in layers.items()
        if name not in left_out
    }
    on = [switch for switch in (*_PLACES, _UNEMBED) if getattr(shape, switch)]
    if not on:
        raise InvalidRequest(
            "there are no layers to train: at least one of train_attn, train_mlp and "
            "train_unembed must be true"
        )
    fixed = dict(_fixed_matrices(model, within, layers))
    for switch in on:
        if beside := [name for name in fixed if _switch(model, name) == switch]:
            raise InvalidRequest(f"{switch} must be false for this model: {_why(beside, fixed)}")
        lost = _LOST.get(_kind(model), "")
        if lost and any(f".{lost}." in name for name in switches if switches[name] == switch):
            raise InvalidRequest(
                f"{switch} must be false for this model: peft cannot read adapters on its {lost}"
            )
        if switch not in switches.values():
            known = ", ".join(sorted({_last(name) for name in layers}))
            raise InvalidRequest(
                f"{switch} must be false for this model: none of its linear layers ({known}) "
                "is known to be such a layer"
            )
    return {name: layers[name].shape for name, switch in switches.items() if switch in on}


def _switch(model: nn.Module, name: str) -> str | None:
    """Returns the switch for a layer of this full name, or None."""
    for switch, place in _PLACES.items():
        if place.search(name):
            return switch
    above = _parent(name.removesuffix(".base_layer"))
    while above:
        of_module = type(model.get_submodule(above)).__name__
        for switch, words in _CLASSES.items():
            if words.search(of_module):
                return switch
        above = _parent(above)
    return None


def _routers(layers: Mapping[str, LoraLinear | ExpertLayer]) -> Set[str]:
    """Returns the linear layers that choose between the experts beside them."""
    experts = _experts_beside(layers)
    return {
        name
        for name, layer in layers.items()
        if (found := _ROUTER.search(name))
        and layer.shape.outputs == experts.get(name[: found.start()])
    }


def _bypassed(model: Any, layers: Mapping[str, LoraLinear | ExpertLayer]) -> Set[str]:
    return {name for name in layers if _kind(model) in _BYPASSED.get(_last(name), ())}


def _kind(model: Any) -> str:
    return model.config.get_text_config(decoder=True).model_type


def _experts_beside(layers: Mapping[str, LoraLinear | ExpertLayer]) -> Mapping[str, int]:
    """Returns the number of experts in each module that has some, by its full name."""
    return {
        _parent(_parent(layer.full_name)): layer.shape.experts
        for layer in layers.values()
        if isinstance(layer, ExpertLayer)
    }


def _fixed_matrices(
    model: nn.Module,
    within: Set[nn.Module],
    layers: Mapping[str, LoraLinear | ExpertLayer],
) -> Iterator[tuple[str, Tensor]]:
    """Yields the full names of weight matrices that cannot take an adapter: those of some experts
    and of special layers.
    """
    adapted = {id(layer.weight) for layer in layers.values()}
    experts = _experts_beside(layers)
    special = {
        name: module
        for name, module in model.named_modules()
        if module in within and type(module) not in (nn.Embedding, nn.Conv1d)
    }
    for name, module in special.items():
        router = _ROUTER.search(name)
        chosen_from = experts.get(name[: router.start()]) if router else None
        for last, weight in module.named_parameters(recurse=False):
            of_layer = weight.ndim > 1 and not last.endswith("_bias") and last != _NOT_A_LAYER
            if of_layer and id(weight) not in adapted and len(weight) != chosen_from:
                yield f"{name}.{last}", weight


def _why(names: Sequence[str], weights: Mapping[str, Tensor]) -> str:
    if any(weights[name].ndim > _MATRIX for name in names):
        return "it has experts (MoE), which cannot be trained here"
    layers = sorted({_last(name.removesuffix(".weight")) for name in names})
    return (
        f"its layers {', '.join(layers)} are not linear layers of a known type, and "
        "cannot be trained here"
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
