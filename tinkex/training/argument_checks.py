"""Checks of the arguments of training calls, before anything is sent."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

from tinkex.dialects.dialect import Dialect
from tinkex.errors import (
    APIStatusError,
    InvalidInputError,
    RequestFailedError,
    TinkexError,
    UnsupportedByServer,
)
from tinkex.types import AdamParams, DimuonParams, SgdParams
from tinkex.types.number_checks import check_number

SamplerKind = Literal["snapshot", "inflight"]

OptimizerSettings: TypeAlias = AdamParams | DimuonParams | SgdParams

_BELOW = {"beta1": 1.0, "beta2": 1.0, "momentum": 1.0}
"""The settings of optimizers that have an upper bound."""


def check_name(name: str) -> None:
    """Raises `InvalidInputError` for a name that no checkpoint can have: it is a part of a path."""
    if not name or "/" in name:
        raise InvalidInputError(f"the name {name!r} must not be empty or hold a '/'")


def check_kind(kind: SamplerKind) -> None:
    """Raises `InvalidInputError` for a kind of sampler weights that there is not."""
    if kind not in get_args(SamplerKind):
        raise InvalidInputError(f"kind is {kind!r}, not one of {', '.join(get_args(SamplerKind))}")


def check_inflight(dialect: Dialect, kind: SamplerKind) -> None:
    """Raises `UnsupportedByServer` where weights that are to change would silently be a
    snapshot.
    """
    if kind == "inflight" and not dialect.inflight_saves:
        raise UnsupportedByServer(
            f"{dialect.name} is not known to have in-flight weights",
            server=dialect.name,
            operation="save_weights_for_sampler",
            advice="Save a snapshot after each step; or give Config a Dialect with inflight_saves, if the server has them.",
        )


def check_save(dialect: Dialect, saves: int) -> None:
    """Raises `UnsupportedByServer` where a model that was saved so often already would be saved as
    it was the first time.
    """
    if saves and dialect.saves_once:
        raise UnsupportedByServer(
            f"{dialect.name} keeps the files of a model's first save_state for each later one: this state would be lost",
            server=dialect.name,
            operation="save_weights",
            advice="Save a model once there: go on in a new one, made from the saved state, and save that.",
        )


def check_load(dialect: Dialect, *, optimizer: bool) -> None:
    """Raises `UnsupportedByServer` where a load would take over the optimizer's state that it is to
    leave, or leave one behind.
    """
    if optimizer and dialect.loads_begin_anew:
        raise UnsupportedByServer(
            f"{dialect.name} was seen to begin the optimizer anew with any load, so that training would not go on where it was saved",
            server=dialect.name,
            operation="load_weights",
            advice="If that will do, say so: load_state, or create_training_client_from_state.",
        )
    if not optimizer and dialect.loads_keep_optimizer:
        raise UnsupportedByServer(
            f"{dialect.name} takes over the optimizer's state with any load, so that its moments would go on where they are to begin anew",
            server=dialect.name,
            operation="load_weights",
            advice="If that is wanted, say so: load_state_with_optimizer, or create_training_client_from_state_with_optimizer. If the "
            "server is of a newer release, give Config(dialect=…) its name.",
        )


def late_load_advice(error: TinkexError) -> str | None:
    """Returns what to do about a load that was refused since the model has had requests before;
    None for another failure.
    """
    if not isinstance(error, (APIStatusError, RequestFailedError)) or "seq_id" not in error.message:
        return None
    return (
        "This server loads only as a model's first request. Make a new model of the checkpoint: create_training_client_from_state(path), "
        "or create_training_client_from_state_with_optimizer(path)."
    )


def checked_optimizer(params: OptimizerSettings) -> OptimizerSettings:
    """Returns a copy, which no later change of `params` reaches.

    Raises `InvalidInputError`, naming the field, unless each number is finite, 0 or more, and of
    betas and momentum below 1.
    """
    settings = params.to_dict()
    for name, value in settings.items():
        if name in type(params).__annotations__ and name != "type":
            check_number(f"optim_params.{name}", value, below=_BELOW.get(name, math.inf))
    return type(params).from_dict(settings)
