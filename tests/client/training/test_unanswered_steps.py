"""A training request whose answer does not come is sent again where that is safe; otherwise the
user gets an error. No step is silently lost or applied twice.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, get_args

import pytest

from tests.support.batches import datum
from tests.support.facades import FACADES
from tests.support.faulty_proxy import Fault, Faulty, faulty
from tests.support.recording_engine import RecordingEngine
from tinkex import AdamParams, ClientPoisonedError, Config, RetrySettings, StepOutcomeUnknown
from tinkex.dialects import resend
from tinkex.dialects.dialect import SeqIdRepeats
from tinkex.errors import FailurePoint
from tinkex.local import Server

CHANGING = ("forward_backward", "optim_step", "load_weights")
READING = ("forward", "save_weights", "save_weights_for_sampler", "save_weights_external")


def expected_decision(
    failure_point: FailurePoint, operation: str, repeats: SeqIdRepeats
) -> resend.Decision:
    """The table, written out once more."""
    if failure_point in ("connecting", "unsent"):
        return "resend"
    table: dict[SeqIdRepeats, dict[str, resend.Decision]] = {
        "repeats": {"changing": "resend", "reading": "resend"},
        "refuses": {"changing": "resend_once", "reading": "resend_once"},
        "ignores": {"changing": "unknown", "reading": "resend"},
        "unknown": {"changing": "unknown", "reading": "unknown"},
    }
    return table[repeats]["changing" if operation in CHANGING else "reading"]


@pytest.mark.rule(11)
@pytest.mark.parametrize(
    ("failure_point", "operation", "repeats"),
    list(itertools.product(get_args(FailurePoint), CHANGING + READING, get_args(SeqIdRepeats))),
)
def test_only_safe_requests_are_sent_again(
    failure_point: FailurePoint, operation: str, repeats: SeqIdRepeats
) -> None:
    assert resend.decide(failure_point, operation, repeats) == expected_decision(
        failure_point, operation, repeats
    )


@pytest.mark.rule(10, 11)
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("409 seq_id mismatch: expected 6, got 5", "applied"),
        ("expected seq_id 5, got 5", "unclear"),
        ("Expected 1 but got 5", "state_lost"),
        ("the model does not exist", "unclear"),
    ],
)
def test_a_refused_repeat_shows_whether_the_first_request_arrived(text: str, meaning: str) -> None:
    assert resend.meaning_of_refusal(text, 5) == meaning


@pytest.fixture
def proxied(server: Server) -> Any:
    with faulty(server.base_url) as proxy:
        yield proxy


@pytest.fixture
def train(
    connect: Callable[..., Any], proxied: Faulty, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """Makes a training client on a server that says of itself what it does with repeats."""
    from tinkex_server.routes import server as routes

    def train(repeats: str) -> Any:
        monkeypatch.setattr(routes.FLAGS, "seq_id_repeats", repeats)
        config = Config(
            base_url=proxied.base_url, retry=RetrySettings(base_delay=0.01, max_delay=0.01)
        )
        return connect(proxied.base_url, config=config).create_lora_training_client(
            "fake/base", rank=4
        )

    return train


def applied(engine: RecordingEngine, trainer: Any, operation: str, at_least: int = 0) -> int:
    """Counts how often the server executed an operation, whose result nobody may have awaited."""
    deadline = time.monotonic() + 5
    while engine.count(operation, trainer.model_id) < at_least and time.monotonic() < deadline:
        time.sleep(0.01)
    return engine.count(operation, trainer.model_id)


@pytest.mark.rule(11)
@pytest.mark.parametrize("fault", get_args(Fault))
@pytest.mark.parametrize("operation", ["forward_backward", "optim_step"])
def test_on_a_server_that_knows_repeats_a_step_is_applied_once_whatever_is_lost(
    train: Callable[[str], Any],
    proxied: Faulty,
    server_engine: RecordingEngine,
    fault: Fault,
    operation: str,
) -> None:
    trainer = train("repeats")
    proxied.faults.append((operation, fault))
    for _ in range(2):
        trainer.forward_backward([datum(5)], "cross_entropy").result()
        trainer.optim_step(AdamParams()).result()
    assert applied(server_engine, trainer, operation) == 2
    assert proxied.count(operation) == 3


@pytest.mark.rule(11)
@pytest.mark.parametrize("repeats", ["ignores", "unknown"])
@pytest.mark.parametrize(
    ("fault", "arrived"), [("request lost", 0), ("answer lost", 1), ("answer cut", 1)]
)
def test_on_other_servers_it_is_not_sent_again_and_later_calls_say_why(
    train: Callable[[str], Any],
    proxied: Faulty,
    server_engine: RecordingEngine,
    repeats: str,
    fault: Fault,
    arrived: int,
) -> None:
    trainer = train(repeats)
    proxied.faults.append(("optim_step", fault))
    trainer.forward_backward([datum(5)], "cross_entropy").result()
    with pytest.raises(StepOutcomeUnknown, match="last saved state"):
        trainer.optim_step(AdamParams()).result()
    with pytest.raises(
        ClientPoisonedError, match="the outcome of an earlier optim_step is unknown"
    ):
        trainer.forward_backward([datum(5)], "cross_entropy").result()
    assert applied(server_engine, trainer, "optim_step", at_least=arrived) == arrived
    assert proxied.count("optim_step") == 1


@pytest.mark.rule(11)
def test_requests_that_change_nothing_are_sent_again(
    train: Callable[[str], Any], proxied: Faulty, server_engine: RecordingEngine
) -> None:
    trainer = train("ignores")
    proxied.faults.append(("forward_backward", "answer lost"))  # the form of a forward in protobuf
    assert trainer.forward([datum(5)], "cross_entropy").result().loss_fn_outputs
    assert applied(server_engine, trainer, "forward_backward") == 0


def test_a_request_to_a_server_that_is_not_there_was_certainly_not_sent(
    train: Callable[[str], Any], server_engine: RecordingEngine
) -> None:
    from tinkex import APIConnectionError

    with faulty("http://127.0.0.1:9") as gone:
        base_url = gone.base_url
    config = Config(base_url=base_url, retry=RetrySettings(max_attempts=2, base_delay=0.01))
    with FACADES["blocking"](base_url=base_url, api_key="tml-x", config=config) as service:
        with pytest.raises(APIConnectionError) as caught:
            service.get_server_capabilities()
        assert caught.value.failure_point == "connecting"
        assert not caught.value.sent
