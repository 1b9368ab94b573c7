"""An answer that says nothing is no answer: nothing is taken for a result, a training step is
neither doubled nor taken for done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import httpx
import pytest

from tests.support.batches import datum
from tests.support.faulty_proxy import UNREADABLE, Faulty, Instead, faulty, unreadable
from tests.support.recording_engine import RecordingEngine
from tests.support.virtual_time import Answering, run, transport_to
from tinkex import (
    AdamParams,
    APIResponseValidationError,
    APIStatusError,
    ClientPoisonedError,
    Config,
    PollSettings,
    RetrySettings,
    StepOutcomeUnknown,
    TinkexError,
)
from tinkex.config.recovery import is_recoverable
from tinkex.dialects import resend
from tinkex.dialects.dialect import SeqIdRepeats
from tinkex.futures.poller import of_fields, wait_for_result
from tinkex.local import Server
from tinkex.training.batch_requests import read_batch
from tinkex.transport.answers import required_text
from tinkex.waiting.wait import RequestState

QUICK = RetrySettings(base_delay=0.001, max_delay=0.002, max_attempts=4)
UNKNOWN_OUTCOMES = {
    *range(100, 200),
    *(300, 302, 303, 304, 305, 306, *range(309, 400)),
    *(408, 419, 420, 427, 430, *range(432, 451), *range(452, 500)),
    *range(500, 600),
}


@pytest.fixture
def proxied(server: Server, server_engine: RecordingEngine) -> Iterator[Faulty]:
    server_engine.gate.set()
    with faulty(server.base_url) as proxy:
        yield proxy


@pytest.fixture
def service(connect: Callable[..., Any], proxied: Faulty) -> Any:
    config = Config(base_url=proxied.base_url, retry=QUICK, poll=PollSettings(max_interval=0.01))
    return connect(proxied.base_url, config=config)


@pytest.mark.rule(6, 11)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_poll_that_is_answered_with_nothing_is_asked_again(
    service: Any, proxied: Faulty, server_engine: RecordingEngine, kind: str
) -> None:
    def disturbed(call: Callable[[], Any]) -> Any:
        before = proxied.count("retrieve_future")
        proxied.faults.append(("retrieve_future", unreadable(kind)))
        result = call()
        assert not proxied.faults
        assert proxied.count("retrieve_future") >= before + 2
        return result

    trainer = disturbed(lambda: service.create_lora_training_client("fake/base", rank=4))
    assert trainer.model_id
    batch = [datum(5)]
    good = trainer.forward_backward(batch, "cross_entropy").result()
    again = disturbed(lambda: trainer.forward_backward(batch, "cross_entropy").result())
    assert again.metrics == good.metrics
    assert disturbed(lambda: trainer.optim_step(AdamParams()).result()).metrics is not None
    saved = disturbed(lambda: trainer.save_state(f"state-{len(kind)}").result())
    assert saved.path.startswith("tinker://")
    assert (
        disturbed(lambda: trainer.load_state_with_optimizer(saved.path).result()).path == saved.path
    )
    sampler = disturbed(trainer.save_weights_and_get_sampling_client)
    assert proxied.count("create_sampling_session") == 0, "which would be of the base model"
    assert disturbed(lambda: sampler.sample([1], 1, {"max_tokens": 1}).result()).sequences
    disturbed(trainer.unload_model)


@pytest.mark.parametrize(
    "kind", sorted(UNREADABLE.keys() - {"JSON that says protobuf"})
)  # it is an object without fields all the same
def test_a_call_outside_the_sequence_is_retried(service: Any, proxied: Faulty, kind: str) -> None:
    for call in ("client/config", "create_session", "create_model"):
        proxied.faults.append((call.rpartition("/")[2], unreadable(kind)))
    trainer = service.create_lora_training_client("fake/base", rank=4)
    proxied.faults += [
        ("get_info", unreadable(kind)),
        ("create_sampling_session", unreadable(kind)),
    ]
    assert trainer.get_info().model_id == trainer.model_id
    service.create_sampling_client(base_model="fake/base")
    assert not proxied.faults


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"{}", b'{"model_id": null}', b'{"model_id": ""}', b'{"model_id": 7}', b"[]"],
)
def test_endless_unreadable_answers_end_in_an_error(body: bytes) -> None:
    async def work() -> None:
        server = Answering(lambda request: httpx.Response(200, content=body))
        with pytest.raises(
            APIResponseValidationError, match="all answers to polls for its result are malformed"
        ) as caught:
            await wait_for_result(
                transport_to(server, retry=QUICK),
                RequestState("create_model", "r1"),
                of_fields(lambda fields: required_text(fields, "model_id")),
            )
        assert len(server.requests) == QUICK.max_attempts
        assert caught.value.request_id == "r1"
        assert caught.value.operation == "create_model"

    run(work())


@pytest.mark.parametrize("payload", [{}, {"loss_fn_outputs": [], "metrics": {}}, b""])
def test_an_empty_batch_is_not_a_result(payload: Any) -> None:
    with pytest.raises((ValueError, KeyError)):
        read_batch(payload)


def test_metrics_alone_are_a_result() -> None:
    assert read_batch({"loss_fn_outputs": [], "metrics": {"loss:sum": 1.0}}).metrics == {
        "loss:sum": 1.0
    }


# ---- training requests ----


@pytest.fixture
def train(service: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Makes a training client on a server that says of itself what it does with repeats."""
    from tinkex_server.routes import server as routes

    def train(repeats: str) -> Any:
        monkeypatch.setattr(routes.FLAGS, "seq_id_repeats", repeats)
        return service.create_lora_training_client("fake/base", rank=4)

    return train


def applied(engine: RecordingEngine, trainer: Any, count: int) -> int:
    deadline = time.monotonic() + 5
    while engine.count("optim_step", trainer.model_id) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    return engine.count("optim_step", trainer.model_id)


@pytest.mark.rule(11)
@pytest.mark.parametrize("repeats", get_args(SeqIdRepeats))
@pytest.mark.parametrize(
    "kind",
    [*UNREADABLE, *(f"status {status}" for status in (303, 304, 408, 460, 499, 502, 520, 599))],
)
def test_a_step_that_was_applied_and_answered_with_nothing_is_never_doubled_nor_taken_for_refused(
    train: Callable[[str], Any],
    proxied: Faulty,
    server_engine: RecordingEngine,
    kind: str,
    repeats: str,
) -> None:
    trainer = train(repeats)
    fault = (
        Instead(int(kind.rpartition(" ")[2]), b"")
        if kind.startswith("status")
        else unreadable(kind)
    )
    proxied.faults.append(("optim_step", fault))
    # which say where to go, not to come again
    resent = repeats == "repeats" and kind not in ("status 303", "status 304")
    if resent or repeats == "refuses":  # this server answers a repeat, whatever it says of itself
        trainer.optim_step(AdamParams()).result()
        trainer.optim_step(AdamParams()).result()
        assert applied(server_engine, trainer, 2) == 2
        return
    with pytest.raises(TinkexError) as caught:
        trainer.optim_step(AdamParams()).result()
    assert isinstance(caught.value, StepOutcomeUnknown)
    assert is_recoverable(caught.value)
    with pytest.raises(ClientPoisonedError):
        trainer.optim_step(AdamParams()).result()
    assert applied(server_engine, trainer, 1) == 1


@pytest.mark.rule(11)
def test_every_status_has_its_meaning() -> None:
    meanings = {status: resend.status_meaning(status) for status in range(100, 600)}
    assert {status for status, meaning in meanings.items() if meaning == "taken"} == set(
        range(200, 300)
    )
    assert {
        status for status, meaning in meanings.items() if meaning == "unknown"
    } == UNKNOWN_OUTCOMES
    for status, meaning in meanings.items():
        if meaning != "taken":
            error = APIStatusError("x", status_code=status, body=None, headers={})
            assert (resend.failure_point_of(error) == "answered") == (meaning == "unknown")


@pytest.mark.rule(11)
@pytest.mark.parametrize(
    "refusal",
    [Instead(401), Instead(403, b"<html>"), Instead(404, b"<html>"), Instead(400, b"<html>")],
)
def test_a_refusal_after_a_try_whose_answer_was_lost_leaves_the_outcome_unknown(
    train: Callable[[str], Any], proxied: Faulty, server_engine: RecordingEngine, refusal: Instead
) -> None:
    trainer = train("repeats")
    proxied.faults += [
        ("optim_step", "answer lost"),
        ("optim_step", refusal),
        ("optim_step", refusal),
        ("optim_step", refusal),
    ]
    with pytest.raises(StepOutcomeUnknown):
        trainer.optim_step(AdamParams()).result()
    with pytest.raises(ClientPoisonedError):
        trainer.optim_step(AdamParams()).result()
    assert applied(server_engine, trainer, 1) == 1


def test_a_forward_of_unknown_outcome_does_not_say_that_it_may_have_been_applied(
    train: Callable[[str], Any], proxied: Faulty
) -> None:
    trainer = train("unknown")
    proxied.faults.append(("forward_backward", "answer lost"))
    with pytest.raises(StepOutcomeUnknown, match="it changes nothing in the model"):
        trainer.forward([datum(5)], "cross_entropy").result()
