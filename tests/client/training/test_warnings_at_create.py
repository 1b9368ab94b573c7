"""Warnings in the answer of create_model are logged by both sides, by the client once for each
server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.recording_engine import RecordingEngine
from tinkex import AsyncServiceClient, ServiceClient
from tinkex.local import Server, serve

WORDS = "fake/base ties its embeddings"


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(engine=RecordingEngine(warnings=[WORDS])) as running:
        yield running


def told(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if WORDS in record.getMessage() and record.name == logger
    ]


def test_a_blocking_client_warns_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tinkex"), ServiceClient(server.base_url) as service:
        training = service.create_lora_training_client("fake/base", rank=4)
        path = training.save_state("one").result().path
        service.create_lora_training_client("fake/base", rank=4)
        service.create_training_client_from_state(path)
    assert len(told(caplog, "tinkex")) == 1
    assert len(told(caplog, "tinkex.local")) == 3


@pytest.mark.anyio
async def test_an_asyncio_client_warns_about_a_model_made_from_a_checkpoint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = RecordingEngine()
    with serve(engine=engine) as server, caplog.at_level(logging.WARNING, "tinkex"):
        async with AsyncServiceClient(server.base_url) as service:
            training = await service.create_lora_training_client("fake/base", rank=4)
            path = (await training.save_state("one")).path
            assert not told(caplog, "tinkex")
            engine.warnings = [WORDS]
            for _ in range(2):
                await service.create_training_client_from_state_with_optimizer(path)
    assert len(told(caplog, "tinkex")) == 1


def test_without_a_reason_nothing_is_sent_and_no_warning_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve(engine=RecordingEngine()) as server, ServiceClient(server.base_url) as service:
        service.create_lora_training_client("fake/base", rank=4)
    assert not told(caplog, "tinkex")
