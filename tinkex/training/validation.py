"""What is wrong with a batch, said before anything is sent."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from tinkex.dialects.dialect import Dialect
from tinkex.errors import InvalidInputError, UnsupportedByServer
from tinkex.types import Datum

SamplerKind = Literal["snapshot", "inflight"]

KEPT_OPTIMIZER = (
    "a load there always takes over the optimizer's state, so that training goes on with it and does not begin it anew; "
    "for new moments, make a new model and merge the weights elsewhere"
)
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

_KNOWN_INPUTS = frozenset(
    {
        *_RATIO_INPUTS,
        *("weights", "clip_low_threshold", "clip_high_threshold", "sequence_ratio_mask"),
        *("values", "returns", "ref_logps", "mask"),  # of single servers
    }
)


def check_name(name: str) -> None:
    """Raises `InvalidInputError` for a name that no checkpoint can have: it is a part of a path."""
    if not name or "/" in name:
        raise InvalidInputError(f"the name {name!r} must not be empty or hold a '/'")


def check_kind(kind: SamplerKind) -> None:
    """Raises `InvalidInputError` for a kind of sampler weights that there is not."""
    if kind not in get_args(SamplerKind):
        raise InvalidInputError(f"kind is {kind!r}, not one of {', '.join(get_args(SamplerKind))}")


def check_inflight(dialect: Dialect, kind: SamplerKind) -> None:
    """Raises `UnsupportedByServer` where weights that are to change would silently be a snapshot."""
    if kind == "inflight" and not dialect.inflight_saves:
        raise UnsupportedByServer(
            f"{dialect.name} is not known to have in-flight weights",
            server=dialect.name,
            operation="save_weights_for_sampler",
            advice="Save a snapshot after each step; or give Config a Dialect with inflight_saves, if the server has them.",
        )


def check_save(dialect: Dialect, saves: int) -> None:
    """Raises `UnsupportedByServer` where a model that was saved so often already would be saved as it was the first time."""
    if saves and dialect.saves_once:
        raise UnsupportedByServer(
            f"{dialect.name} keeps the files of a model's first save_state for each later one: this state would be lost",
            server=dialect.name,
            operation="save_weights",
            advice="Save a model once there: go on in a new one, made from the saved state, and save that.",
        )


def check_batch(data: Sequence[Datum], loss_fn: str) -> None:
    """Raises `InvalidInputError`, naming the datum's index and the field, for what no server can train on.

    That is an empty batch, a thing that is no `Datum`, a loss input that is missing or unknown, and arrays that were changed for
    the worse since the datum was made.
    """
    if not data:
        raise InvalidInputError("the batch is empty: expected one datum at least")
    if not loss_fn:
        raise InvalidInputError("loss_fn is empty", advice='Name a loss, for example "cross_entropy".')
    for index, datum in enumerate(data):
        if not isinstance(datum, Datum):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"data[{index}] must be a Datum, found {type(datum).__name__}")
        try:
            _check_datum(datum, loss_fn)
        except InvalidInputError as error:
            raise InvalidInputError(f"data[{index}].{error.message}", advice=error.advice) from error


def _check_datum(datum: Datum, loss_fn: str) -> None:
    if datum.model_input.is_empty:
        raise InvalidInputError("model_input is empty: expected one token at least, found none")
    _check_names(datum, loss_fn)
    datum.check()


def _check_names(datum: Datum, loss_fn: str) -> None:
    have = datum.loss_fn_inputs.keys()
    missing = sorted(_REQUIRED_INPUTS.get(loss_fn, frozenset()) - have)
    if missing:
        raise InvalidInputError(f"loss_fn_inputs lacks {missing[0]!r}, which {loss_fn} needs; found {_listed(have)}")
    if loss_fn in _REQUIRED_INPUTS and (unknown := sorted(have - _KNOWN_INPUTS)):
        near = difflib.get_close_matches(unknown[0], _KNOWN_INPUTS, n=1)
        raise InvalidInputError(
            f"loss_fn_inputs has the unknown input {unknown[0]!r}",
            advice=f"Did you mean {near[0]!r}?" if near else f"Known are {_listed(_KNOWN_INPUTS)}.",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
