"""The optimizers, and their state between two steps as named tensors that a file can hold.

Learning rate and the like are not part of it: every step brings its own.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from tinkex_server.engine.interface import (
    AdamSettings,
    InvalidRequest,
    OptimizerKind,
    OptimizerSettings,
    SgdSettings,
)
from tinkex_server.engine.torch.muon import Muon

_STEP = "step"  # a scalar: how many steps the parameter took
_MOMENTUM = "momentum_buffer"


@frozen
class _Kind:
    make: Callable[..., Optimizer]
    fields: tuple[str, ...]
    """Of a parameter's state; all but `step` are of the parameter's shape."""


_KINDS: Mapping[OptimizerKind, _Kind] = {
    "adamw": _Kind(partial(AdamW, fused=True), (_STEP, "exp_avg", "exp_avg_sq")),
    "sgd": _Kind(partial(SGD, fused=True), (_MOMENTUM,)),
    "dimuon": _Kind(Muon, (_MOMENTUM,)),
}


def set_options(optimizer: Optimizer, settings: OptimizerSettings) -> None:
    """What the next step goes by."""
    for group in optimizer.param_groups:
        group.update(_options(settings))


def _options(settings: OptimizerSettings) -> Mapping[str, Any]:
    """By torch's names."""
    if isinstance(settings, AdamSettings):
        betas = (settings.beta1, settings.beta2)
        return {
            "lr": settings.learning_rate,
            "betas": betas,
            "eps": settings.eps,
            "weight_decay": settings.weight_decay,
        }
    if isinstance(settings, SgdSettings):
        return {
            "lr": settings.learning_rate,
            "momentum": settings.momentum,
            "weight_decay": settings.weight_decay,
        }
    return {"lr": settings.learning_rate, "momentum": settings.beta1}


def state_of(
    kind: OptimizerKind, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """By `<kind>/<parameter>/<field>`; what a parameter has not yet, or does without, is left
    out.
    """
    state: Mapping[Tensor, Mapping[str, Tensor | None]] = optimizer.state
    return {
        f"{kind}/{name}/{field}": value
        for name, parameter in parameters.items()
        for field in _KINDS[kind].fields
        if (value := state.get(parameter, {}).get(field)) is not None
    }


def create_optimizer(
    kind: OptimizerKind, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]
) -> Optimizer:
    """An optimizer over `parameters` that goes on from what `state_of` gave; anew from an empty
    one.

    Raises `InvalidRequest` when the state is of another kind of optimizer, or of other parameters.
    """
    fields = _fields(kind, parameters, saved)
    optimizer = _KINDS[kind].make(parameters.values())
    whole = optimizer.state_dict()
    whole["state"] = {
        index: fields[name] for index, name in enumerate(parameters) if name in fields
    }
    optimizer.load_state_dict(whole)
    return optimizer


def _fields(
    kind: OptimizerKind, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]
) -> Mapping[str, Mapping[str, Tensor]]:
    """The fields of each parameter's state, after a check."""
    fields: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        saved_kind, _, rest = key.partition("/")
        name, _, field = rest.rpartition("/")
        if saved_kind != kind:
            raise InvalidRequest(
                f"the optimizer's state is of {saved_kind}, and the model is trained by {kind}"
            )
        if name not in parameters:
            raise InvalidRequest(
                f"the optimizer's state is of other weights: the model has no {name}"
            )
        fields.setdefault(name, {})[field] = value
    for name, state in fields.items():
        for field in _KINDS[kind].fields:
            wanted = torch.Size() if field == _STEP else parameters[name].shape
            if field not in state or state[field].shape != wanted:
                raise InvalidRequest(
                    f"the optimizer's state has no {field} of shape {list(wanted)} for {name}"
                )
    return fields
