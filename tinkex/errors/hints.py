"""`hinted`: a call with a misspelt keyword says what was meant, and what there is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import Parameter, iscoroutinefunction, signature
from types import FunctionType
from typing import Any, TypeVar

from tinkex.errors import ArgumentError
from tinkex.secret import as_secret

C = TypeVar("C")

_MEANT: Mapping[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "wd": ("weight_decay",),
    "max_grad_norm": ("grad_clip_norm",),
    "grad_clip": ("grad_clip_norm",),
    "url": ("base_url",),
    "host": ("base_url",),
    "endpoint": ("base_url",),
    "key": ("api_key",),
    "token": ("api_key",),
    "headers": ("default_headers",),
    "retries": ("max_retries",),
    "model": ("base_model",),
    "model_name": ("base_model",),
    "path": ("model_path", "tinker_path"),
    "r": ("rank",),
    "lora_rank": ("rank",),
    "n": ("num_samples",),
    "params": ("sampling_params", "optim_params"),
    "max_new_tokens": ("max_tokens",),
    "temp": ("temperature",),
    "batch": ("data",),
    "datums": ("data",),
    "loss": ("loss_fn",),
    "input_ids": ("model_input", "tokens", "prompt"),
    "labels": ("loss_fn_inputs",),
    "ttl": ("ttl_seconds",),
}
"""What other libraries call a parameter, and what it may be here."""

_SECRETS = frozenset(
    {
        *("api_key", "credential_cmd", "cf_access_client_id", "cf_access_client_secret"),
        *(
            "proxy",
            "proxy_headers",
            "default_headers",
            "default_headers_overrides",
            "default_query",
        ),
    }
)
"""Parameters whose values are not to be seen."""

_INSIDE: Mapping[str, tuple[str, Collection[str]]] = {
    "sampling_params": (
        "SamplingParams",
        ("max_tokens", "seed", "stop", "temperature", "top_k", "top_p"),
    ),
    "optim_params": (
        "AdamParams",
        ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"),
    ),
}
"""Parameters that hold others."""


def hinted(cls: type[C]) -> type[C]:
    """Has the constructor and the public methods of a class raise `ArgumentError` for a keyword
    that they do not have.
    """
    for name, function in list(vars(cls).items()):
        if (
            isinstance(function, FunctionType)
            and (name == "__init__" or not name.startswith("_"))
            and not name.endswith("_async")
        ):
            setattr(cls, name, _hinting(function, cls.__name__ if name == "__init__" else name))
    return cls


def _hinting(function: Callable[..., Any], shown: str) -> Callable[..., Any]:
    if iscoroutinefunction(function):

        @wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except TypeError as error:
                if better := _better(error, function, shown, kwargs):
                    raise better from None
                raise

        return awaited

    secrets = (
        _SECRETS & signature(function).parameters.keys()
        if shown[:1].isupper()
        else frozenset[str]()
    )

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if secrets:
            kwargs = _hidden(kwargs, secrets)
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if better := _better(error, function, shown, kwargs):
                raise better from None
            raise

    return called


def _hidden(kwargs: Mapping[str, Any], secrets: Collection[str]) -> dict[str, Any]:
    """Returns the arguments of a constructor, hidden from those who look at the variables of its
    frames.
    """
    return {name: as_secret(value) if name in secrets else value for name, value in kwargs.items()}


def _better(
    error: TypeError, function: Callable[..., Any], shown: str, given: Collection[str]
) -> ArgumentError | None:
    """Returns an error that has the hint; None where the error is none of the call."""
    known = [
        p.name
        for p in signature(function).parameters.values()
        if p.kind in _NAMED and p.name != "self"
    ]
    wrong = next((name for name in given if name not in known), None)
    came_from_within = error.__traceback__ is not None and error.__traceback__.tb_next is not None
    if wrong is None or came_from_within:
        return None
    return ArgumentError(
        f"{shown}() has no parameter {wrong!r}{_hint(wrong, known)}",
        advice=f"Known are {', '.join(known)}.",
    )


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _hint(wrong: str, known: Collection[str]) -> str:
    for holder, (kind, names) in _INSIDE.items():
        near = (
            wrong
            if wrong in names
            else next((name for name in _MEANT.get(wrong, ()) if name in names), None)
        )
        if holder in known and near:
            return f": give it as {holder}={kind}({near}=…)"
    meant = [
        *(name for name in _MEANT.get(wrong, ()) if name in known),
        *difflib.get_close_matches(wrong, known, n=1),
    ]
    return f": did you mean {meant[0]}?" if meant else ""
