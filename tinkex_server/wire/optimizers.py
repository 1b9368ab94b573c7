"""Optimizers and their settings, between the contract's types and the engine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast, get_args

from tinkex_api import models as api

from tinkex_server.engine.interface import (
    AdamSettings,
    DimuonSettings,
    OptimizerKind,
    OptimizerSettings,
    SgdSettings,
)
from tinkex_server.errors import bad_request, malformed
from tinkex_server.wire.tensors import LARGEST_FLOAT32


def optimizer_kind(config: api.OptimizerConfig | None) -> OptimizerKind:
    kinds: Mapping[str, OptimizerKind] = {kind: kind for kind in get_args(OptimizerKind)}
    name = config.type if config else "adamw"
    if name not in kinds:
        raise bad_request(f"this server has no optimizer {name!r}; it has {', '.join(kinds)}")
    return kinds[name]


def optimizer_config(kind: OptimizerKind) -> api.OptimizerConfig:
    return api.OptimizerConfig(kind, version=1 if kind == "dimuon" else None)


def optimizer_settings(body: api.OptimStepRequest) -> OptimizerSettings:
    if [body.adam_params, body.optimizer_params, body.sgd_params].count(None) != 2:
        raise malformed(
            "adam_params",
            message="or optimizer_params or sgd_params is needed: one of them, not more",
        )
    if adam := body.adam_params:
        _check_numbers(adam, "adam_params", decays=("beta1", "beta2"))
        if not 0 < adam.eps <= LARGEST_FLOAT32:
            raise malformed(
                "adam_params",
                "eps",
                message=f"must be more than 0, and at most {LARGEST_FLOAT32}, the largest float32",
            )
        return AdamSettings(
            adam.learning_rate,
            adam.beta1,
            adam.beta2,
            adam.eps,
            adam.weight_decay,
            adam.grad_clip_norm,
        )
    if sgd := body.sgd_params:
        _check_numbers(sgd, "sgd_params", decays=("momentum",))
        return SgdSettings(sgd.learning_rate, sgd.momentum, sgd.weight_decay, sgd.grad_clip_norm)
    dimuon = cast("api.DimuonParams", body.optimizer_params)
    if dimuon.type != "dimuon":
        raise malformed(
            "optimizer_params", "type", message=f"is {dimuon.type!r}: this server takes dimuon"
        )
    _check_numbers(dimuon, "optimizer_params", decays=("beta1",))
    return DimuonSettings(dimuon.learning_rate, dimuon.beta1, dimuon.grad_clip_norm)


def _check_numbers(
    params: api.AdamParams | api.DimuonParams | api.SgdParams, field: str, decays: Sequence[str]
) -> None:
    """`decays` are those of which a share is kept, which must be less than all."""
    for name in ("learning_rate", "weight_decay", "grad_clip_norm"):
        if not 0 <= getattr(params, name, 0.0) <= LARGEST_FLOAT32:
            raise malformed(
                field,
                name,
                message=f"must be 0 or more, and at most {LARGEST_FLOAT32}, the largest float32",
            )
    for name in decays:
        if not 0 <= getattr(params, name) < 1:
            raise malformed(field, name, message="must be 0 or more, and less than 1")
