"""A session that another process began goes on, with the numbers of its models."""

from __future__ import annotations

import pytest
from attrs import define, field

from tinkex import AdamParams, AsyncServiceClient, Datum, ModelInput, ServerStateLostError
from tinkex.config import Config
from tinkex.local import Server
from tinkex.session.session import Session
from tinkex.training.client import AsyncTrainingClient
from tinkex.transport.transport import Transport
from tinkex.types import LoraConfig

DATUM = Datum(ModelInput.from_ints([1, 2, 3]), {"target_tokens": [1, 2, 3]})


@define
class Recorded:
    """A record of what it is told."""

    events: list[tuple[object, ...]] = field(factory=list)

    def sending(self, model_id: str, operation: str, seq_id: int, requests: int) -> None:
        self.events.append(("sending", operation, seq_id, requests))

    def accepted(self, model_id: str, seq_id: int, request_id: str) -> None:
        self.events.append(("accepted", seq_id))

    def refused(self, model_id: str, next_seq_id: int) -> None:
        self.events.append(("refused", next_seq_id))


@pytest.mark.anyio
async def test_a_model_is_trained_on_under_the_next_number(server: Server) -> None:
    config = Config(base_url=server.base_url, api_key="tml-x")
    first = AsyncServiceClient(config=config)
    trainer = await first.create_lora_training_client("fake/base", rank=4)
    await trainer.forward_backward([DATUM], "cross_entropy")
    session_id = trainer.model_id.partition(":")[0]

    transport, journal = Transport(config), Recorded()
    session = await Session.resume(
        transport, session_id, first_number=1_000, last_seq_ids={trainer.model_id: 1}
    )
    session.journal = journal
    again = AsyncTrainingClient(session, trainer.model_id, "fake/base", LoraConfig(rank=4))
    await again.optim_step(AdamParams(learning_rate=1e-3))
    await again.save_weights_and_get_sampling_client()
    assert journal.events == [
        ("sending", "optim_step", 2, 1),
        ("accepted", 2),
        ("sending", "save_weights_for_sampler", 3, 1),
        ("accepted", 3),
    ]
    await session.lifecycle.finish("success")
    await transport.aclose()
    await first.close()


@pytest.mark.anyio
async def test_a_session_that_the_server_has_lost_does_not_go_on(server: Server) -> None:
    transport = Transport(Config(base_url=server.base_url, api_key="tml-x"))
    with pytest.raises(ServerStateLostError):
        await Session.resume(transport, "s-unknown", first_number=0, last_seq_ids={})
    await transport.aclose()
