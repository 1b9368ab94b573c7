"""The layers that the switches of a LoRA adapter stand for, in models of all kinds.

The output layer is the one that the model names. The other layers are recognised by their position,
since their own names say less (`gate_proj` is part of the attention in some kinds): attention
layers are in a module whose name says so, MLP layers in one of a few names.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, TypeVar

from torch import Tensor, nn

from tinkex_server.engine.interface import InvalidRequest, LoraShape

L = TypeVar("L", bound=nn.Module)

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
_UNEMBED = "train_unembed"
_MATRIX = 2  # dimensions; merged experts have more


def choose_layers(
    model: Any, within: Set[nn.Module], linears: Mapping[str, L], shape: LoraShape
) -> dict[str, L]:
    """Returns the linear layers to be trained. `within` holds the modules that text passes through.

    Raises `InvalidRequest` if a switch that is on would train nothing, or only a part of its
    layers.
    """
    head = model.get_output_embeddings()
    switches = {
        name: _UNEMBED if layer is head else _switch(name) for name, layer in linears.items()
    }
    on = [switch for switch in (*_PLACES, _UNEMBED) if getattr(shape, switch)]
    if not on:
        raise InvalidRequest(
            "there are no layers to train: at least one of train_attn, train_mlp and "
            "train_unembed must be true"
        )
    fixed = list(_fixed_matrices(model, within, linears))
    for switch in on:
        if beside := [name for name, _ in fixed if _switch(name) == switch]:
            raise InvalidRequest(
                f"{switch} must be false for this model: {_why(beside, dict(fixed))}"
            )
        if switch not in switches.values():
            known = ", ".join(sorted({_last(name) for name in linears}))
            raise InvalidRequest(
                f"{switch} must be false for this model: none of its linear layers ({known}) "
                "is known to be such a layer"
            )
    return {name: linears[name] for name, switch in switches.items() if switch in on}


def _switch(name: str) -> str | None:
    """Returns the switch for a layer of this full name, or None."""
    return next((switch for switch, place in _PLACES.items() if place.search(name)), None)


def _fixed_matrices(
    model: nn.Module, within: Set[nn.Module], linears: Mapping[str, nn.Module]
) -> Iterator[tuple[str, Tensor]]:
    """Yields the full names of weight matrices that cannot take an adapter: those of experts and of
    special layers.
    """
    for name, module in model.named_modules():
        if module in within and name not in linears and not isinstance(module, nn.Embedding):
            for last, weight in module.named_parameters(recurse=False):
                if weight.ndim > 1:
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
