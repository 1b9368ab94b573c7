"""Errors can be sent to other processes, and say whose fault they are."""

from __future__ import annotations

import pickle

import pytest

import tinkex
from tinkex import errors

MADE = [
    errors.ConfigError("wrong", advice="mend it"),
    errors.InvalidInputError("wrong"),
    errors.NotFoundError(
        "404 no", status_code=404, body={"detail": "no"}, headers={"a": "b"}, operation="get_info"
    ),
    errors.RequestFailedError("broke", category="server", operation="optim_step", request_id="r1"),
    errors.WaitTimeoutError("late", waited=3.0, request_id="r1"),
    errors.StepOutcomeUnknown("who knows", operation="optim_step", advice="reload"),
    errors.APIConnectionError("gone", operation="sample"),
    errors.RecoveryFailedError(
        "no checkpoint can be loaded", operation="recover", advice="see the log"
    ),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: errors.TinkexError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    "error",
    [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.TinkexError)
    ],
)
def test_tracebacks_name_an_error_as_users_import_it(error: type[errors.TinkexError]) -> None:
    assert error.__module__ == "tinkex"
    assert getattr(tinkex, error.__name__) is error
    assert pickle.loads(pickle.dumps(error)) is error


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_an_error_names_fault_operation_and_advice(error: errors.TinkexError) -> None:
    assert error.fault in ("user", "server", "network", "unknown")
    assert isinstance(error.retryable, bool)
    for part in (error.message, error.operation, error.request_id, error.advice):
        assert part is None or part in str(error)
