"""Tracebacks are short: the user's line, ours that raises, and the message. The whole one is in the
log at DEBUG.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tinkex import (
    APIConnectionError,
    BadRequestError,
    Datum,
    InvalidInputError,
    ModelInput,
    NumpyLoss,
    ServiceClient,
)
from tinkex.local import Server

DATUM = Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})


def lines(error: BaseException) -> int:
    return len("".join(traceback.format_exception(error)).splitlines())


def test_a_wrong_port(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tinkex")
    with (
        pytest.raises(APIConnectionError) as caught,
        ServiceClient(base_url="http://127.0.0.1:9", api_key="tml-x") as service,
    ):
        service.create_lora_training_client("fake/base", 8)
    assert lines(caught.value) < 40
    assert "test_a_wrong_port" in "".join(traceback.format_exception(caught.value))
    whole = [record for record in caplog.records if record.exc_info]
    assert whole
    assert lines(whole[0].exc_info[1]) < 40  # type: ignore[index,arg-type]


def test_a_refused_step(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    trainer = connect(server.base_url).create_lora_training_client("fake/base", 8)
    with pytest.raises(BadRequestError) as caught:
        trainer.forward_backward([DATUM], "cross_entropie").result()
    assert lines(caught.value) < 40


def test_the_users_own_function_is_shown(connect: Callable[..., Any], server: Server) -> None:
    def fails(data: Any, logprobs: Any) -> Any:
        return 1.0, ["not an array"], {}

    trainer = connect(server.base_url).create_lora_training_client("fake/base", 8)
    with pytest.raises(InvalidInputError) as caught:
        trainer.forward_backward_custom([DATUM], NumpyLoss(fails)).result()
    assert caught.value.message

    def raises(data: Any, logprobs: Any) -> Any:
        raise InvalidInputError("mine")

    with pytest.raises(InvalidInputError, match="mine") as own:
        trainer.forward_backward_custom([DATUM], NumpyLoss(raises)).result()
    assert "in raises" in "".join(traceback.format_exception(own.value))
