"""A server that may run a step before earlier batches gets the step only after they are done;
batches wait for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from tests.support.batches import batch, datum
from tests.support.faulty_proxy import Faulty, faulty
from tests.support.recording_engine import RecordingEngine
from tests.support.wait_until import wait_until
from tinkex import AdamParams, ChunkLimits, Config, RequestFailedError
from tinkex.dialects.table import DIALECTS
from tinkex.local import Server

HELD = 96  # a token that the engine waits at
REFUSED = 99


@pytest.fixture
def trainer_through(
    connect: Callable[..., Any], server_engine: RecordingEngine
) -> Callable[[Faulty], Any]:
    server_engine.gate.clear()

    def trainer_through(proxy: Faulty) -> Any:
        dialect = evolve(DIALECTS["tinkex"], overtakes=True)
        config = Config(
            base_url=proxy.base_url, dialect=dialect, chunk_limits=ChunkLimits(max_items=2)
        )
        return connect(proxy.base_url, config=config).create_lora_training_client(
            "fake/base", rank=4
        )

    return trainer_through


@pytest.mark.rule(10)
def test_a_step_is_sent_when_the_gradients_before_it_are_there(
    trainer_through: Callable[[Faulty], Any], server: Server, server_engine: RecordingEngine
) -> None:
    with faulty(server.base_url) as proxy:
        trainer = trainer_through(proxy)
        gradients = trainer.forward_backward([*batch(2), datum(HELD)], "cross_entropy")
        update = trainer.optim_step(AdamParams())
        assert server_engine.waiting.acquire(timeout=10)
        # so many other requests pass meanwhile that the next one in order would have, too
        for _ in range(20):
            trainer.get_info()
        assert (proxy.count("forward_backward"), proxy.count("optim_step")) == (2, 0)
        server_engine.gate.set()
        assert len(gradients.result().loss_fn_outputs) == 3
        update.result()


@pytest.mark.rule(10)
def test_a_call_that_fails_does_not_hold_up_the_next_one(
    trainer_through: Callable[[Faulty], Any], server: Server, server_engine: RecordingEngine
) -> None:
    with faulty(server.base_url) as proxy:
        trainer = trainer_through(proxy)
        refused = trainer.forward_backward([datum(REFUSED)], "cross_entropy")
        gradients = trainer.forward_backward(batch(1), "cross_entropy")
        with pytest.raises(RequestFailedError):
            refused.result()
        assert len(gradients.result().loss_fn_outputs) == 1


@pytest.mark.rule(10)
def test_batches_do_not_wait_for_each_other(
    trainer_through: Callable[[Faulty], Any], server: Server, server_engine: RecordingEngine
) -> None:
    """Each step comes after the batches before it, and a batch is sent while the one before it, or
    a step, is under way.
    """
    with faulty(server.base_url) as proxy:
        trainer = trainer_through(proxy)
        held = trainer.forward_backward([datum(HELD)], "cross_entropy")
        assert server_engine.waiting.acquire(timeout=10)
        others = [
            trainer.forward_backward(batch(1), "cross_entropy"),
            trainer.forward(batch(1), "cross_entropy"),
        ]
        save, update = trainer.save_state("after"), trainer.optim_step(AdamParams())
        wait_until(lambda: proxy.count("forward_backward") + proxy.count("forward") == 3)
        assert proxy.count("save_weights") == proxy.count("optim_step") == 0
        server_engine.gate.set()
        for future in (held, *others, save, update):
            future.result()


@pytest.mark.rule(10)
def test_a_step_waits_for_a_batch_whose_result_nobody_wants(
    trainer_through: Callable[[Faulty], Any], server: Server, server_engine: RecordingEngine
) -> None:
    with faulty(server.base_url) as proxy:
        trainer = trainer_through(proxy)
        held = trainer.forward_backward([datum(HELD)], "cross_entropy")
        assert server_engine.waiting.acquire(timeout=10)
        held.cancel()
        update, given_up = trainer.optim_step(AdamParams()), trainer.optim_step(AdamParams())
        for _ in range(20):
            trainer.get_info()
        given_up.cancel()
        assert proxy.count("optim_step") == 0
        server_engine.gate.set()
        update.result()
        assert proxy.count("optim_step") == 1
