"""Checks of the arguments of training calls, before anything is sent."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

from tinkex.dialects.dialect import Dialect
from tinkex.errors import (
    APIStatusError,
    ArgumentError,
    InvalidInputError,
    RequestFailedError,
    TinkexError,
    UnsupportedByServer,
)
from tinkex.types import AdamParams, DimuonParams, SgdParams
from tinkex.types.number_checks import check_number

SamplerKind = Literal["snapshot", "inflight"]
"""Whether saved sampler weights stay as they are, or are replaced by later saves."""

OptimizerSettings: TypeAlias = AdamParams | DimuonParams | SgdParams

_BELOW = {"beta1": 1.0, "beta2": 1.0, "momentum": 1.0}
"""The settings of optimizers with an upper bound, which they must stay below."""


def check_name(name: str) -> None:
    """Raises `InvalidInputError` for a name that cannot be a part of a checkpoint's path."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"the name of a checkpoint must be a string, found {name!r}")
    if not name or "/" in name:
        raise InvalidInputError(f"the name {name!r} must not be empty or contain a '/'")


def check_kind(kind: SamplerKind) -> None:
    """Raises `InvalidInputError` for an unknown kind of sampler weights."""
    if kind not in get_args(SamplerKind):
        raise InvalidInputError(f"kind is {kind!r}, not one of {', '.join(get_args(SamplerKind))}")


def check_inflight(dialect: Dialect, kind: SamplerKind) -> None:
    """Raises `UnsupportedByServer` where in-flight weights would silently become a snapshot."""
    if kind == "inflight" and not dialect.inflight_saves:
        raise UnsupportedByServer(
            f"{dialect.name} is not known to support in-flight weights",
            server=dialect.name,
            operation="save_weights_for_sampler",
            advice=(
                "Save a snapshot after each step. If the server does support them, give Config a "
                "Dialect with inflight_saves=True."
            ),
        )


def check_save(dialect: Dialect, saves: int) -> None:
    """Raises `UnsupportedByServer` where a later save would keep the state of the first one.

    Args:
        dialect: the server's dialect.
        saves: the number of earlier saves of the model.
    """
    if saves and dialect.saves_once:
        raise UnsupportedByServer(
            f"{dialect.name} keeps the files of a model's first save_state for each later one, so "
            "this state would be lost",
            server=dialect.name,
            operation="save_weights",
            advice=(
                "Save each model only once there: continue in a new model, made from the saved "
                "state, and save that one."
            ),
        )


def check_load(dialect: Dialect, *, optimizer: bool) -> None:
    """Raises `UnsupportedByServer` where a load would treat the optimizer's state in another way
    than asked.

    Args:
        dialect: the server's dialect.
        optimizer: whether the optimizer's state is to be loaded.
    """
    if optimizer and dialect.loads_begin_anew:
        raise UnsupportedByServer(
            f"{dialect.name} was seen to reset the optimizer at every load, so training would not "
            "continue where it was saved",
            server=dialect.name,
            operation="load_weights",
            advice=(
                "If a reset optimizer is acceptable, use load_state or "
                "create_training_client_from_state."
            ),
        )
    if not optimizer and dialect.loads_keep_optimizer:
        raise UnsupportedByServer(
            f"{dialect.name} loads the optimizer's state at every load, so the optimizer would not "
            "be reset",
            server=dialect.name,
            operation="load_weights",
            advice=(
                "If that is acceptable, use load_state_with_optimizer or "
                "create_training_client_from_state_with_optimizer. If the server is of a newer "
                "release, give Config(dialect=…) that release's name."
            ),
        )


def late_load_advice(error: TinkexError) -> str | None:
    """Returns advice for a load that was refused because the model has had earlier requests; None
    for another failure.
    """
    if not isinstance(error, (APIStatusError, RequestFailedError)) or "seq_id" not in error.message:
        return None
    return (
        "This server loads only as a model's first request. Make a new model from the checkpoint: "
        "create_training_client_from_state(path), or "
        "create_training_client_from_state_with_optimizer(path)."
    )


def checked_optimizer(params: OptimizerSettings) -> OptimizerSettings:
    """Returns a copy of an optimizer's settings, which later changes of `params` do not reach.

    Raises `InvalidInputError`, naming the field, unless each number is finite and 0 or more, and
    betas and momentum are below 1.
    """
    settings = params.to_dict()
    for name, value in settings.items():
        if name in type(params).__annotations__ and name != "type":
            check_number(f"optim_params.{name}", value, below=_BELOW.get(name, math.inf))
    return type(params).from_dict(settings)
