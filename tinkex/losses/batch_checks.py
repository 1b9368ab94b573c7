"""Checks of a batch and of a loss's settings, before anything is sent."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Literal, TypeAlias

from tinkex.errors import ArgumentError, InvalidInputError
from tinkex.types import Datum
from tinkex.types.number_checks import is_number

LossName: TypeAlias = (
    Literal["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"] | str
)
"""The name of a loss. Editors complete the names listed here; a server may have others."""

_RATIO_INPUTS = frozenset({"target_tokens", "logprobs", "advantages"})

_REQUIRED_INPUTS = {
    "cross_entropy": frozenset({"target_tokens"}),
    "importance_sampling": _RATIO_INPUTS,
    "ppo": _RATIO_INPUTS,
    "cispo": _RATIO_INPUTS,
    "dro": _RATIO_INPUTS,
    "gspo": _RATIO_INPUTS,  # and sequence_ratio_mask, which not all servers that have it take
}
"""The loss inputs that known losses need. Other losses are checked by the server."""

_SERVER_SPECIFIC_INPUTS = frozenset({"values", "returns", "ref_logps", "mask"})

_KNOWN_INPUTS = frozenset(
    {
        *_RATIO_INPUTS,
        *("weights", "clip_low_threshold", "clip_high_threshold", "sequence_ratio_mask"),
        *_SERVER_SPECIFIC_INPUTS,
    }
)

_NAMES_ELSEWHERE = {
    **dict.fromkeys(("weight", "loss_weights"), "weights"),
    **dict.fromkeys(("label", "labels", "target", "targets", "target_ids"), "target_tokens"),
    **dict.fromkeys(("advantage", "adv"), "advantages"),
    **dict.fromkeys(("logprob", "old_logprobs", "sampling_logprobs", "logp"), "logprobs"),
}
"""The names that other libraries give the inputs, and ours."""

_MASKS = frozenset({"mask", "loss_mask", "attention_mask"})


def as_batch(data: Sequence[Datum]) -> list[Datum]:
    """Returns a copy of the data as a list. Raises `ArgumentError` for what is not a sequence."""
    if hasattr(data, "__iter__") and not isinstance(data, (str, bytes, Mapping)):
        return list(data)
    raise ArgumentError(
        f"data must be a list of Datum, found {type(data).__name__}",
        advice="Give a list, also for a single datum: [datum].",
    )


def checked_settings(config: Mapping[str, float | str] | None) -> dict[str, float | str]:
    """Returns a copy of a loss's settings.

    Raises `InvalidInputError`, naming the setting, for a value that is neither a finite number nor
    a string.
    """
    settings = dict(config or {})
    for name, value in settings.items():
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"loss_fn_config must have strings for names, found {name!r}")
        if not isinstance(value, str) and not (is_number(value) and math.isfinite(value)):
            raise InvalidInputError(
                f"loss_fn_config[{name!r}] must be a finite number or a string, found {value!r}"
            )
    return settings


def check_batch(data: Sequence[Datum], loss_fn: str) -> None:
    """Raises `InvalidInputError` for a batch that no server can train on, naming the datum's index
    and the field.

    Such a batch is empty, contains something other than a `Datum`, lacks a loss input or has an
    unknown one, or has arrays that became invalid after the datum was made.
    """
    check_form(data, loss_fn)
    check_values(data)


def check_form(data: Sequence[Datum], loss_fn: str) -> None:
    """Does the part of `check_batch` that reads no numbers, which takes microseconds a datum."""
    if not data:
        raise InvalidInputError("the batch is empty: expected at least one datum")
    if not isinstance(loss_fn, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(
            f"loss_fn must be the name of a loss, found {type(loss_fn).__name__}",
            advice="A loss of your own goes to forward_backward_custom(data, loss_fn).",
        )
    if not loss_fn:
        raise InvalidInputError(
            "loss_fn is empty", advice='Name a loss, for example "cross_entropy".'
        )
    checked: Set[str] | None = None  # names; those of most datums are alike
    for index, datum in enumerate(data):
        if not isinstance(datum, Datum):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"data[{index}] must be a Datum, found {type(datum).__name__}")
        try:
            if datum.model_input.is_empty:
                raise InvalidInputError("model_input is empty: expected at least one token")
            names = datum.loss_fn_inputs.keys()
            if names != checked:
                _check_names(names, loss_fn)
                checked = names
            datum.check_form()
        except InvalidInputError as error:
            raise _at(index, error) from error


def check_values(data: Sequence[Datum]) -> None:
    """Does the part of `check_batch` that reads all numbers, at about the speed of the memory."""
    for index, datum in enumerate(data):
        try:
            datum.check_values()
        except InvalidInputError as error:
            raise _at(index, error) from error


def _at(index: int, error: InvalidInputError) -> InvalidInputError:
    """Returns an error of a datum that names the datum."""
    return InvalidInputError(f"data[{index}].{error.message}", advice=error.advice)


def _check_names(have: Set[str], loss_fn: str) -> None:
    missing = sorted(_REQUIRED_INPUTS.get(loss_fn, frozenset()) - have)
    if missing:
        raise InvalidInputError(
            f"loss_fn_inputs lacks {missing[0]!r}, which {loss_fn} needs; found {_listed(have)}"
        )
    if loss_fn in _REQUIRED_INPUTS and (unknown := sorted(have - _KNOWN_INPUTS)):
        meant = _likely_meant(unknown[0], loss_fn)
        raise InvalidInputError(
            f"loss_fn_inputs has the unknown input {unknown[0]!r}",
            advice=f"Did you mean {meant!r}?" if meant else f"Known: {_listed(_KNOWN_INPUTS)}.",
        )


def _likely_meant(name: str, loss_fn: str) -> str | None:
    """Returns the input that a name such as `mask`, `labels` or `wieghts` stands for, or None."""
    if name in _MASKS:
        return counting_input(loss_fn)
    if name in _NAMES_ELSEWHERE:
        return _NAMES_ELSEWHERE[name]
    near = difflib.get_close_matches(name, _KNOWN_INPUTS - _SERVER_SPECIFIC_INPUTS, n=1)
    return near[0] if near else None


def counting_input(loss_fn: str) -> str:
    """Returns the input of a known loss that weights its tokens; a 0 leaves a token out."""
    return "weights" if loss_fn == "cross_entropy" else "advantages"


def mask_is_ignored(datum: Datum, loss_fn: str) -> bool:
    """Returns whether a `mask` leaves out tokens that a known loss counts, since it ignores
    masks.
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
