"""The client learns a server's encoding from the first batch that it takes, over a real socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from tests.support.batches import batch, datum
from tests.support.recording_engine import RecordingEngine
from tinkex import AdamParams, BadRequestError, Config
from tinkex.dialects.dialect import Dialect, Encoding
from tinkex.dialects.table import DIALECTS
from tinkex.local import Server
from tinkex.transport.port import Answer, Connections, Headers, Message
from tinkex_server.wire.protobuf import MEDIA_TYPE

UNKNOWN = Config(base_url="http://127.0.0.1", dialect=Dialect())
"""Settings for a server that is not known; the fixture fills in the address."""


class Watch:
    """Passes requests on, and writes down what training bodies they carry; refuses those of one
    encoding as some servers do.
    """

    def __init__(self, inner: Connections, refused: str, status: int) -> None:
        self.inner = inner
        self.refused = refused
        self.status = status
        self.seen: list[tuple[str, str]] = []

    async def exchange(self, message: Message) -> Answer:
        path = message.url.rpartition("/")[2]
        if path in ("forward_backward", "forward"):
            content_type = message.headers["Content-Type"]
            self.seen.append((path, content_type.rpartition("/")[2]))
            if content_type == self.refused:
                return Answer(self.status, Headers(), b'{"detail": "not this encoding"}')
        return await self.inner.exchange(message)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def abandon(self) -> None:
        await self.inner.abandon()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Watch]]:
    """Makes every transport of the test watched."""
    import tinkex.transport.sender as carrier

    made: list[Watch] = []

    def watch(refused: str, status: int = 415) -> list[Watch]:
        handler = carrier.connections_of

        def watched(config: Config) -> Watch:
            made.append(Watch(handler(config), refused, status))
            return made[-1]

        monkeypatch.setattr(carrier, "connections_of", watched)
        return made

    return watch


@pytest.mark.rule(4)
@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_server_that_reads_protobuf_alone(
    connect: Callable[..., Any],
    server: Server,
    server_engine: RecordingEngine,
    watch: Any,
    status: int,
) -> None:
    watches = watch("application/json", status)
    trainer = connect(server.base_url, config=UNKNOWN).create_lora_training_client(
        "fake/base", rank=4
    )
    outputs = trainer.forward_backward(batch(3), "cross_entropy").result().loss_fn_outputs
    assert [output["logprobs"].tolist() for output in outputs] == [[-1.0], [-2.0], [-3.0]]
    trainer.optim_step(AdamParams()).result()
    trainer.forward([datum(5)], "cross_entropy").result()
    assert watches[0].seen == [
        ("forward_backward", "json"),
        ("forward_backward", "x-protobuf"),
        ("forward_backward", "x-protobuf"),  # a forward, by forward_only
    ]
    calls = [call[0] for call in server_engine.calls if call[1] == trainer.model_id]
    assert calls == ["create_model", "forward_backward", "optim_step", "forward"]


@pytest.mark.rule(4, 5)
def test_a_server_that_reads_json(connect: Callable[..., Any], server: Server, watch: Any) -> None:
    watches = watch(MEDIA_TYPE)
    trainer = connect(server.base_url, config=UNKNOWN).create_lora_training_client(
        "fake/base", rank=4
    )
    trainer.forward_backward(batch(3), "cross_entropy").result()
    trainer.forward(batch(3), "cross_entropy").result()
    assert watches[0].seen == [("forward_backward", "json"), ("forward", "json")]


@pytest.mark.rule(4)
def test_a_mistake_of_the_user_is_told_in_the_first_refusals_words(
    connect: Callable[..., Any], server: Server
) -> None:
    trainer = connect(server.base_url, config=UNKNOWN).create_lora_training_client(
        "fake/base", rank=4
    )
    with pytest.raises(BadRequestError, match="unknown loss_fn 'mse'"):
        trainer.forward_backward(batch(1), "mse").result()
    trainer.forward_backward(batch(1), "cross_entropy").result()


@pytest.mark.rule(4)
def test_both_encodings_train_alike(connect: Callable[..., Any], torch_server: Server) -> None:
    def losses(encoding: Encoding) -> list[float]:
        config = Config(
            base_url=torch_server.base_url,
            dialect=evolve(DIALECTS["tinkex"], encodings=(encoding,)),
        )
        trainer = connect(torch_server.base_url, config=config).create_lora_training_client(
            "tinkex/tiny", rank=4, seed=5
        )
        found = []
        for _ in range(3):
            found.append(
                trainer.forward_backward([datum(*b"some text")], "cross_entropy")
                .result()
                .metrics["loss:sum"]
            )
            trainer.optim_step(AdamParams(learning_rate=1e-2)).result()
        return found

    assert losses("protobuf") == pytest.approx(losses("json"), rel=1e-6)
