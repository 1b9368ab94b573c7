"""The state of AdamW between two steps, as named tensors that a file can hold.

Learning rate and the like are not part of it: every step brings its own.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tinkex.local.engine.base import InvalidRequest

_MOMENTS = ("exp_avg", "exp_avg_sq")  # each of its parameter's shape
_STEP = "step"  # a scalar: how many steps the parameter took


def state_of(optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """By `<parameter>/<field>`; a parameter that took no step yet has none."""
    state: Mapping[Tensor, Mapping[str, Tensor]] = optimizer.state
    return {
        f"{name}/{field}": state[parameter][field]
        for name, parameter in parameters.items()
        if parameter in state
        for field in (_STEP, *_MOMENTS)
    }


def restored(parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> torch.optim.AdamW:
    """An AdamW over `parameters` that goes on from what `state_of` gave; anew from an empty one.

    Raises `InvalidRequest` when the state is of other parameters.
    """
    _check(parameters, saved)
    optimizer = torch.optim.AdamW(parameters.values())
    whole = optimizer.state_dict()
    whole["state"] = {
        index: {field: saved[f"{name}/{field}"] for field in (_STEP, *_MOMENTS)}
        for index, name in enumerate(parameters)
        if f"{name}/{_STEP}" in saved
    }
    optimizer.load_state_dict(whole)
    return optimizer


def _check(parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    for name in {key.rpartition("/")[0] for key in saved}:
        if name not in parameters:
            raise InvalidRequest(f"the optimizer's state is of other weights: the model has no {name}")
        shape = parameters[name].shape
        for field, wanted in ((_STEP, torch.Size()), *((moment, shape) for moment in _MOMENTS)):
            value = saved.get(f"{name}/{field}")
            if value is None or value.shape != wanted:
                raise InvalidRequest(f"the optimizer's state has no {field} of shape {list(wanted)} for {name}")
