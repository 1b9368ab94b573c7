"""The optimizers, and their state as named tensors that can be saved.

The learning rate and similar settings are not part of the state, since every step brings its own.
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
    """The fields of a parameter's state; all except `step` have the parameter's shape."""


_KINDS: Mapping[OptimizerKind, _Kind] = {
    "adamw": _Kind(partial(AdamW, fused=True), (_STEP, "exp_avg", "exp_avg_sq")),
    "sgd": _Kind(partial(SGD, fused=True), (_MOMENTUM,)),
    "dimuon": _Kind(Muon, (_MOMENTUM,)),
}


def set_options(optimizer: Optimizer, settings: OptimizerSettings) -> None:
    """Sets the options of the next step."""
    for group in optimizer.param_groups:
        group.update(_options(settings))


def _options(settings: OptimizerSettings) -> Mapping[str, Any]:
    """Returns the settings under torch's names."""
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
    """Returns the state by `<kind>/<parameter>/<field>`, without fields that do not exist yet."""
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
    """Creates an optimizer over `parameters` with the state that `state_of` returned, or with none.

    Raises `InvalidRequest` if the state belongs to another kind of optimizer or to other
    parameters.
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
    """Returns the checked fields of each parameter's state."""
    fields: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        saved_kind, _, rest = key.partition("/")
        name, _, field = rest.rpartition("/")
        if saved_kind != kind:
            raise InvalidRequest(
                f"the saved optimizer state is of {saved_kind}, but the model was created with "
                f"{kind}"
            )
        if name not in parameters:
            raise InvalidRequest(
                f"the saved optimizer state is of other weights: the model has no {name}"
            )
        fields.setdefault(name, {})[field] = value
    for name, state in fields.items():
        for field in _KINDS[kind].fields:
            wanted = torch.Size() if field == _STEP else parameters[name].shape
            if field not in state or state[field].shape != wanted:
                raise InvalidRequest(
                    f"the saved optimizer state has no {field} of shape {list(wanted)} for {name}"
                )
    return fields
