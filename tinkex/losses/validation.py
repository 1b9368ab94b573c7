"""What is wrong with a batch, said before anything is sent."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
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
from tinkex.types import AdamParams, Datum, DimuonParams, SgdParams
from tinkex.types.number_checks import check_number, is_number

OptimizerSettings: TypeAlias = AdamParams | DimuonParams | SgdParams

_BELOW = {"beta1": 1.0, "beta2": 1.0, "momentum": 1.0}
"""The settings of optimizers that have an upper bound."""

SamplerKind = Literal["snapshot", "inflight"]
LossName: TypeAlias = (
    Literal["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"] | str
)
"""The names that editors complete; a server may have others."""

_RATIO_INPUTS = frozenset({"target_tokens", "logprobs", "advantages"})
_REQUIRED_INPUTS = {
    "cross_entropy": frozenset({"target_tokens"}),
    "importance_sampling": _RATIO_INPUTS,
    "ppo": _RATIO_INPUTS,
    "cispo": _RATIO_INPUTS,
    "dro": _RATIO_INPUTS,
    "gspo": _RATIO_INPUTS,  # and sequence_ratio_mask, which not all servers that have it take
}
"""Of the losses whose needs are public; others are the server's to check."""

_OF_SINGLE_SERVERS = frozenset({"values", "returns", "ref_logps", "mask"})
_KNOWN_INPUTS = frozenset(
    {
        *_RATIO_INPUTS,
        *("weights", "clip_low_threshold", "clip_high_threshold", "sequence_ratio_mask"),
        *_OF_SINGLE_SERVERS,
    }
)
_ELSEWHERE = {
    **dict.fromkeys(("weight", "loss_weights"), "weights"),
    **dict.fromkeys(("label", "labels", "target", "targets", "target_ids"), "target_tokens"),
    **dict.fromkeys(("advantage", "adv"), "advantages"),
    **dict.fromkeys(("logprob", "old_logprobs", "sampling_logprobs", "logp"), "logprobs"),
}
"""The inputs by the names that they have in other libraries."""
_MASKS = frozenset({"mask", "loss_mask", "attention_mask"})


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


def as_batch(data: Sequence[Datum]) -> list[Datum]:
    """Returns the data as a list of our own. Raises `InvalidInputError` for what is no sequence."""
    if hasattr(data, "__iter__") and not isinstance(data, (str, bytes, Mapping)):
        return list(data)
    raise ArgumentError(
        f"data must be a list of Datum, found {type(data).__name__}",
        advice="Give a list, also of one: [datum].",
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


def checked_settings(config: Mapping[str, float | str] | None) -> dict[str, float | str]:
    """Returns a copy. Raises `InvalidInputError`, naming the setting, for what is neither a finite
    number nor a text.
    """
    settings = dict(config or {})
    for name, value in settings.items():
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"loss_fn_config must have texts for names, found {name!r}")
        if not isinstance(value, str) and not (is_number(value) and math.isfinite(value)):
            raise InvalidInputError(
                f"loss_fn_config[{name!r}] must be a finite number or a text, found {value!r}"
            )
    return settings


def check_batch(data: Sequence[Datum], loss_fn: str) -> None:
    """Raises `InvalidInputError`, naming the datum's index and the field, for what no server can
    train on.

    That is an empty batch, a thing that is no `Datum`, a loss input that is missing or unknown, and
    arrays that were changed for the worse since the datum was made.
    """
    if not data:
        raise InvalidInputError("the batch is empty: expected one datum at least")
    if not loss_fn:
        raise InvalidInputError(
            "loss_fn is empty", advice='Name a loss, for example "cross_entropy".'
        )
    for index, datum in enumerate(data):
        if not isinstance(datum, Datum):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"data[{index}] must be a Datum, found {type(datum).__name__}")
        try:
            _check_datum(datum, loss_fn)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"data[{index}].{error.message}", advice=error.advice
            ) from error


def _check_datum(datum: Datum, loss_fn: str) -> None:
    if datum.model_input.is_empty:
        raise InvalidInputError("model_input is empty: expected one token at least, found none")
    _check_names(datum, loss_fn)
    datum.check()


def _check_names(datum: Datum, loss_fn: str) -> None:
    have = datum.loss_fn_inputs.keys()
    missing = sorted(_REQUIRED_INPUTS.get(loss_fn, frozenset()) - have)
    if missing:
        raise InvalidInputError(
            f"loss_fn_inputs lacks {missing[0]!r}, which {loss_fn} needs; found {_listed(have)}"
        )
    if loss_fn in _REQUIRED_INPUTS and (unknown := sorted(have - _KNOWN_INPUTS)):
        meant = _likely_meant(unknown[0], loss_fn)
        raise InvalidInputError(
            f"loss_fn_inputs has the unknown input {unknown[0]!r}",
            advice=f"Did you mean {meant!r}?" if meant else f"Known are {_listed(_KNOWN_INPUTS)}.",
        )


def _likely_meant(name: str, loss_fn: str) -> str | None:
    """Returns the input that a name like `mask`, `labels` or `wieghts` stands for, None where there
    is none like it.
    """
    if name in _MASKS:
        return counting_input(loss_fn)
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    near = difflib.get_close_matches(name, _KNOWN_INPUTS - _OF_SINGLE_SERVERS, n=1)
    return near[0] if near else None


def counting_input(loss_fn: str) -> str:
    """Returns the input of a known loss that says how much each token counts, 0 for not at all."""
    return "weights" if loss_fn == "cross_entropy" else "advantages"


def mask_is_lost(datum: Datum, loss_fn: str) -> bool:
    """Returns whether a `mask` leaves out tokens that a known loss, which has no such input, will
    count.
    """
    mask, counts = (
        datum.loss_fn_inputs.get("mask"),
        datum.loss_fn_inputs.get(counting_input(loss_fn)),
    )
    if mask is None or loss_fn not in _REQUIRED_INPUTS:
        return False
    left_out = mask.to_numpy() == 0
    if counts is None:
        return bool(left_out.any())
    return counts.shape != mask.shape or bool((counts.to_numpy()[left_out] != 0).any())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
