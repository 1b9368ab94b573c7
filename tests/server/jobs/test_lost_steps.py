"""Pipelined requests when the engine dies: those that a client sent after the lost steps, before it
could know of the loss, fail as the steps do.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import tinkex.local
from tests.support.killable_engine import BASES, WAITS, KillableEngine
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api
from tests.support.wait_until import wait_until
from tinkex_server.engine.process.engine import ProcessEngine
from tinkex_server.jobs.saved_states import LostSteps


class PipeliningClient(Api):
    """A client that sends its steps without waiting, and polls only on request."""

    mortal: ProcessEngine

    def pair(self, model_id: str, seq_id: int, *tokens: int) -> list[dict[str, Any]]:
        """Sends a batch and its optim_step."""
        update = {
            "model_id": model_id,
            "seq_id": seq_id + 1,
            "adam_params": {"learning_rate": 1e-3},
        }
        return [self.step(model_id, seq_id, *tokens), self.ok("optim_step", **update)]

    def loss(self, model_id: str, seq_id: int) -> float:
        return self.result(self.step(model_id, seq_id, path="forward"))["metrics"]["loss:sum"]

    def kill_engine(self) -> None:
        """Kills the process, and waits for the next one."""
        dead = self.mortal.pid
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: self.mortal.pid != dead)


@pytest.fixture
def ahead() -> Iterator[PipeliningClient]:
    engine = ProcessEngine(KillableEngine, BASES, pauses=(0, 0))
    with (
        tinkex.local.serve(engine=engine) as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        client = PipeliningClient(http, RecordingEngine())
        client.mortal = engine
        yield client
    engine.close()


def saved_model(ahead: PipeliningClient) -> tuple[str, float]:
    """Returns a model that was trained, saved and trained again, and its loss at the save. The next
    seq_id is 7.
    """
    model_id = ahead.model()
    ahead.pair(model_id, 1)
    ahead.result(ahead.ok("save_weights", model_id=model_id, seq_id=3, path="a"))
    known = ahead.loss(model_id, 4)
    for promise in ahead.pair(model_id, 5):
        ahead.result(promise)
    return model_id, known


def told(ahead: PipeliningClient, promises: list[dict[str, Any]]) -> set[str]:
    return {ahead.result(promise)["error"] for promise in promises}


def test_requests_sent_before_the_client_could_know_fail_with_the_same_error(
    ahead: PipeliningClient,
) -> None:
    model_id, known = saved_model(ahead)
    before = [*ahead.pair(model_id, 7, WAITS, 6), *ahead.pair(model_id, 9)]
    time.sleep(0.3)  # the first request is in the engine by then
    ahead.kill_engine()
    after = [*ahead.pair(model_id, 11), *ahead.pair(model_id, 13)]
    [words] = told(ahead, before + after)
    assert "is restored from" in words
    assert "saved at seq_id 3; the steps since then are lost: continue from that state" in words
    assert ahead.loss(model_id, 15) == known


def test_a_repeat_of_what_failed_is_known_again(ahead: PipeliningClient) -> None:
    model_id, _ = saved_model(ahead)
    ahead.kill_engine()
    first = ahead.step(model_id, 7)
    told(ahead, [first])
    assert ahead.step(model_id, 7) == first


def test_after_a_death_while_idle_requests_fail_until_one_failure_was_reported(
    ahead: PipeliningClient,
) -> None:
    model_id, known = saved_model(ahead)
    ahead.kill_engine()
    sent = [*ahead.pair(model_id, 7), *ahead.pair(model_id, 9)]
    assert len(told(ahead, sent)) == 1
    assert ahead.loss(model_id, 11) == known


def test_requests_after_a_lost_step_fail_even_if_the_model_is_restored_exactly(
    ahead: PipeliningClient,
) -> None:
    model_id, _ = saved_model(ahead)
    ahead.result(ahead.ok("save_weights", model_id=model_id, seq_id=7, path="b"))
    known = ahead.loss(model_id, 8)
    under_way = ahead.step(model_id, 9, WAITS, 6)
    time.sleep(0.3)
    ahead.kill_engine()
    update = ahead.ok(
        "optim_step", model_id=model_id, seq_id=10, adam_params={"learning_rate": 1e-3}
    )
    [words] = told(ahead, [update, under_way])
    assert "is restored as it was" in words
    assert ahead.loss(model_id, 11) == known


def test_one_model_s_loss_is_not_another_s(ahead: PipeliningClient) -> None:
    lost, _ = saved_model(ahead)
    fine = ahead.model()
    ahead.result(ahead.ok("save_weights", model_id=fine, seq_id=1, path="a"))
    ahead.kill_engine()
    assert ahead.loss(fine, 2) > 0
    assert len(told(ahead, ahead.pair(lost, 7))) == 1


def test_a_second_death_is_reported_separately(ahead: PipeliningClient) -> None:
    model_id, known = saved_model(ahead)
    ahead.kill_engine()
    first = ahead.pair(model_id, 7)
    told(ahead, first[:1])
    for promise in ahead.pair(model_id, 9):
        assert "error" not in ahead.result(promise)
    ahead.kill_engine()
    told(ahead, first)  # a repeated poll of the first exit says nothing about the second
    second = ahead.pair(model_id, 11)
    assert len(told(ahead, second)) == 1
    assert ahead.loss(model_id, 13) == known


def test_lost_steps_are_known_once_reported() -> None:
    lost = LostSteps(1, "lost")
    assert lost.was_unknown(1.0)
    lost.note_told(2.0)
    lost.note_told(9.0)
    assert [lost.was_unknown(arrived_at) for arrived_at in (1.0, 2.0, 2.1)] == [True, True, False]
