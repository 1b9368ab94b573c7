"""The error of a failed call is logged once if nobody retrieves it, and not otherwise."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.wait_until import wait_until
from tinkex import AdamParams, BadRequestError, Datum, ModelInput
from tinkex.local import Server

UNKNOWN_LOSS = "cross_entropie"


def datum() -> Datum:
    inputs = {"target_tokens": [2, 3], "weights": [1.0, 1.0]}
    return Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs=inputs)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "never retrieved" in text]


@pytest.fixture
def connected(
    connect: Callable[..., Any],
    server: Server,
    server_engine: RecordingEngine,
    caplog: pytest.LogCaptureFixture,
) -> Any:
    caplog.set_level(logging.ERROR, "tinkex")
    return connect(server.base_url)


def test_an_unretrieved_error_is_logged_when_the_client_is_closed(
    connected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    failed = connected.create_lora_training_client("fake/base", 8).forward_backward(
        [datum()], UNKNOWN_LOSS
    )
    wait_until(failed.done)
    connected.close()
    assert len(told(caplog)) == 1
    assert "forward_backward failed" in told(caplog)[0]
    assert "BadRequestError" in told(caplog)[0]
    del failed
    gc.collect()
    assert len(told(caplog)) == 1


def test_an_unretrieved_error_is_logged_when_the_future_is_dropped(
    connected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    connected.create_lora_training_client("fake/base", 8).forward_backward([datum()], UNKNOWN_LOSS)
    deadline = time.monotonic() + 20
    while not told(caplog) and time.monotonic() < deadline:
        time.sleep(0.02)
        gc.collect()
    assert len(told(caplog)) == 1


def test_a_retrieved_error_is_not_logged(connected: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer = connected.create_lora_training_client("fake/base", 8)
    with pytest.raises(BadRequestError):
        trainer.forward_backward([datum()], UNKNOWN_LOSS).result()
    trainer = connected.create_lora_training_client("fake/base", 8)
    with pytest.raises(BadRequestError):
        trainer.train_step([datum()], UNKNOWN_LOSS, AdamParams()).result()
    connected.close()
    gc.collect()
    assert told(caplog) == []


def test_a_script_that_never_retrieves_an_error_shows_it_on_stderr(server: Server) -> None:
    script = (
        "import time, tinkex\n"
        f"service = tinkex.ServiceClient(base_url={server.base_url!r}, api_key='tml-x')\n"
        "trainer = service.create_lora_training_client('fake/base', 8)\n"
        "inputs = {'target_tokens': [2]}\n"
        "datum = tinkex.Datum(tinkex.ModelInput.from_ints([1]), loss_fn_inputs=inputs)\n"
        f"future = trainer.forward_backward([datum], {UNKNOWN_LOSS!r})\n"
        "while not future.done(): time.sleep(0.01)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.count("its error was never retrieved: BadRequestError") == 1


def unfinished(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "ends before these calls" in text]


def test_calls_that_have_not_ended_are_told_when_the_client_is_closed(
    connected: Any, server_engine: RecordingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tinkex")
    trainer = connected.create_lora_training_client("fake/base", 8)
    waits = Datum(ModelInput.from_ints([96]), {"target_tokens": [2]})
    calls = [trainer.forward_backward([waits], "cross_entropy"), trainer.save_state("last")]
    connected.close()
    server_engine.gate.set()
    assert len(calls) == 2  # they were kept, and nobody asked for their results
    [told] = unfinished(caplog)
    assert "lost: 1 x forward_backward, 1 x save_weights. " in told


def test_calls_that_have_ended_are_not_told(
    connected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tinkex")
    trainer = connected.create_lora_training_client("fake/base", 8)
    trainer.forward([datum()], "cross_entropy")  # which nobody can miss
    trainer.save_state("last").result()
    connected.close()
    assert unfinished(caplog) == []


@pytest.mark.parametrize(
    ("end", "told"),
    [("", True), ("service.close()\n", True), ("service.close('interrupted')\n", False)],
)
def test_a_script_that_ends_before_its_save_says_so(server: Server, end: str, told: bool) -> None:
    script = (
        "import tinkex\n"
        f"service = tinkex.ServiceClient(base_url={server.base_url!r}, api_key='tml-x')\n"
        "trainer = service.create_lora_training_client('fake/base', 8)\n"
        "for number in range(50): trainer.save_state(f'save-{number}')\n" + end
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ("x save_weights" in ended.stderr) is told
