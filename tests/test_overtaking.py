"""A server that may run a model's requests in another order than they came in is given them one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from tests.batches import batch, datum
from tests.fake_engine import FakeEngine
from tests.faulty import Faulty, faulty
from tinkex import AdamParams, ChunkLimits, Config, RequestFailedError
from tinkex.dialects.table import DIALECTS
from tinkex.local import Server

HELD = 96  # a token that the engine waits at
REFUSED = 99


@pytest.fixture
def trainer_through(connect: Callable[..., Any], server_engine: FakeEngine) -> Callable[[Faulty], Any]:
    server_engine.gate.clear()

    def trainer_through(proxy: Faulty) -> Any:
        dialect = evolve(DIALECTS["tinkex"], overtakes=True)
        config = Config(base_url=proxy.base_url, dialect=dialect, chunk_limits=ChunkLimits(max_items=2))
        return connect(proxy.base_url, config=config).create_lora_training_client("fake/base", rank=4)

    return trainer_through


@pytest.mark.rule(10)
def test_a_step_is_sent_when_the_gradients_before_it_are_there(
    trainer_through: Callable[[Faulty], Any], server: Server, server_engine: FakeEngine
) -> None:
    with faulty(server.base_url) as proxy:
        trainer = trainer_through(proxy)
        gradients = trainer.forward_backward([*batch(2), datum(HELD)], "cross_entropy")
        update = trainer.optim_step(AdamParams())
        assert server_engine.waiting.acquire(timeout=10)
        for _ in range(20):  # so many other requests pass meanwhile that the next one in order would have, too
            trainer.get_info()
        assert (proxy.count("forward_backward"), proxy.count("optim_step")) == (2, 0)
        server_engine.gate.set()
        assert len(gradients.result().loss_fn_outputs) == 3
        update.result()


@pytest.mark.rule(10)
def test_a_call_that_fails_does_not_hold_up_the_next_one(
    trainer_through: Callable[[Faulty], Any], server: Server, server_engine: FakeEngine
) -> None:
    with faulty(server.base_url) as proxy:
        trainer = trainer_through(proxy)
        refused = trainer.forward_backward([datum(REFUSED)], "cross_entropy")
        gradients = trainer.forward_backward(batch(1), "cross_entropy")
        with pytest.raises(RequestFailedError):
            refused.result()
        assert len(gradients.result().loss_fn_outputs) == 1
