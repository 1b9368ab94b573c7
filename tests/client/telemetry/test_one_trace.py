"""Clock, jitter and ids are injected: with one seed a job sends the same bytes, and pauses alike,
each time.
"""

from __future__ import annotations

import asyncio
import random

import httpx

from tests.support.batches import batch
from tinkex import AdamParams, AsyncServiceClient, Config
from tinkex.transport.transport import Transport
from tinkex.waiting.clock import Clock


class SeededClock(Clock):
    """Chance from a seed; time moves by sleeping alone."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.time = 0.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        if seconds >= 10.0:  # a heartbeat: not in this job's time
            await asyncio.Event().wait()
        self.sleeps.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)

    def random(self) -> float:
        return self.chance.random()

    def random_below(self, limit: int) -> int:
        return self.chance.randrange(limit)

    def new_id(self) -> str:
        return f"{self.chance.getrandbits(128):032x}"


class Server(httpx.AsyncBaseTransport):
    """Fails each call once before it takes it, and writes all down."""

    def __init__(self) -> None:
        self.trace: list[tuple[str, str, bytes, tuple[tuple[str, str], ...]]] = []
        self.failed: set[str] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = request.url.path.rpartition("/")[2]
        self.trace.append(
            (request.method, call, request.content, tuple(sorted(request.headers.multi_items())))
        )
        if call not in self.failed:
            self.failed.add(call)
            return httpx.Response(503, request=request)
        answers = {
            "config": {"seq_id_repeats": "repeats"},
            "create_session": {"session_id": "s"},
            "retrieve_future": {
                "model_id": "m",
                "loss_fn_output_type": "x",
                "loss_fn_outputs": [],
                "metrics": {"loss:sum": 1.0},
            },
        }
        return httpx.Response(200, json=answers.get(call, {"request_id": "1"}), request=request)


def trace(
    seed: int,
) -> tuple[list[tuple[str, str, bytes, tuple[tuple[str, str], ...]]], list[float]]:
    server, clock = Server(), SeededClock(seed)

    async def job() -> None:
        config = Config(base_url=f"http://server-{id(server)}", api_key="k", http_transport=server)
        service = AsyncServiceClient(config=config)
        service._transport = Transport(config, clock)
        async with service:
            trainer = await service.create_lora_training_client("base", rank=4)
            for _ in range(2):
                await trainer.train_step(batch(2), "cross_entropy", AdamParams())

    asyncio.run(job())
    return server.trace, clock.sleeps


def test_one_seed_gives_one_trace() -> None:
    first, again, other = trace(1), trace(1), trace(2)
    assert [without_host(entry) for entry in first[0]] == [
        without_host(entry) for entry in again[0]
    ]
    assert first[1] == again[1]
    assert first[1] != other[1]


def without_host(entry: tuple[str, str, bytes, tuple[tuple[str, str], ...]]) -> object:
    """Each run is on a host of its own, since what is learned of a server is kept for its
    address.
    """
    method, call, body, headers = entry
    return method, call, body, [pair for pair in headers if pair[0] != "host"]
