"""A sampling client can be sent to another process, and the key stays at home."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from typing import Any

import orjson
import pytest

from tests.support.recording_engine import RecordingEngine
from tinkex import AsyncSamplingClient, ClientClosedError, Config, SamplingClient, ServiceClient
from tinkex.dialects.table import UNKNOWN
from tinkex.local import Server
from tinkex.portal import portal
from tinkex.transport.connection import ConnectionPool
from tinkex.transport.port import Answer, Message

SCRIPTS = {
    "blocking": """
        import pickle, sys
        sampler = pickle.load(sys.stdin.buffer)
        samples = [sampler.sample([token], 1, {"max_tokens": 1}).result() for token in (5, 6)]
        print([sample.sequences[0].tokens[0] for sample in samples])
    """,
    "asyncio": """
        import asyncio, pickle, sys
        async def main():
            sampler = pickle.load(sys.stdin.buffer)
            samples = [await sampler.sample([token], 1, {"max_tokens": 1}) for token in (5, 6)]
            print([sample.sequences[0].tokens[0] for sample in samples])
        asyncio.run(main())
    """,
}


@pytest.fixture
def sampler(server: Server, server_engine: RecordingEngine) -> Any:
    server_engine.gate.set()
    config = Config(
        base_url=server.base_url,
        api_key="tml-secret",
        default_headers={"X-Auth": "hidden", "X-Team": "one"},
    )
    with ServiceClient(config=config) as service:
        yield service.create_sampling_client(base_model="fake/base")


@pytest.mark.parametrize("facade", SCRIPTS)
def test_other_processes_sample_with_a_pickled_client(
    sampler: Any, server_engine: RecordingEngine, facade: str
) -> None:
    raw = pickle.dumps(sampler if facade == "blocking" else sampler._client)
    before = server_engine.count("sample")
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-c",
        textwrap.dedent(SCRIPTS[facade]),
    ]
    environment = os.environ | {"TINKER_API_KEY": "tml-other"}
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(raw, timeout=60) for process in processes]
    assert [output for output, _ in outputs] == [b"[5, 6]\n"] * 2, outputs
    assert sampler.sample([7], 1, {"max_tokens": 1}).result().sequences[0].tokens == [7, 1]
    assert server_engine.count("sample") - before == 5, (
        "no number was used twice: each sample was drawn"
    )


def test_the_key_is_not_pickled(sampler: Any) -> None:
    raw = pickle.dumps(sampler)
    assert b"tml-secret" not in raw
    assert b"hidden" not in raw
    assert b"X-Team" in raw


def test_an_unpickled_copy_works_in_the_same_process(sampler: Any) -> None:
    with pickle.loads(pickle.dumps(sampler)) as copy:
        assert copy.sampling_session_id == sampler.sampling_session_id
        assert copy.compute_logprobs([5, 6]).result() == [None, -1.0]
    assert sampler.compute_logprobs([5, 6]).result() == [None, -1.0], (
        "the first one's connections are its own"
    )


def _first_token(sampler: SamplingClient) -> int:
    with sampler:
        return sampler.sample([5], 1, {"max_tokens": 1}).result().sequences[0].tokens[0]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_process_pool_samples_with_it(
    sampler: Any, server_engine: RecordingEngine, method: str
) -> None:
    before = server_engine.count("sample")
    with warnings.catch_warnings():
        # Python's own, of forking a process that has threads
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(_first_token, [sampler] * 4, chunksize=1) == [5] * 4
    assert server_engine.count("sample") == before + 4


def test_a_client_that_was_not_pickled_is_refused_in_a_fork(sampler: Any) -> None:
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            sampler.sample([5], 1, {"max_tokens": 1})
        except ClientClosedError:
            os.write(write, b"refused")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 7) == b"refused"
    os.close(read)
    os.close(write)


def test_cloudpickle_takes_it(sampler: Any) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    assert _first_token(pickle.loads(cloudpickle.dumps(sampler))) == 5


class _Sent:
    """Keeps the numbers of samples, and lets all pass."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._inner = ConnectionPool()

    async def exchange(self, message: Message) -> Answer:
        body = orjson.loads(message.content)
        if "seq_id" in body:
            self.numbers.append(body["seq_id"])
        return await self._inner.exchange(message)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _numbers(copies: list[AsyncSamplingClient]) -> list[list[int]]:
    """Under which numbers each samples twice."""

    async def sample(copied: AsyncSamplingClient) -> list[int]:
        copied._session.transport._sender._connections = sent = _Sent()
        async with copied:
            await asyncio.gather(*(copied.sample([5], 1, {"max_tokens": 1}) for _ in range(2)))
        return sorted(sent.numbers)

    return [portal.shared().run(sample, copied) for copied in copies]


def test_copies_and_copies_of_copies_are_numbered_by_the_server(sampler: Any) -> None:
    first = pickle.loads(pickle.dumps(sampler._client))
    second = pickle.loads(pickle.dumps(first))
    third = copy.deepcopy(second)
    billions = [
        [number // 10**9 for number in numbers] for numbers in _numbers([third, first, second])
    ]
    start = billions[0][0]
    assert start >= 1
    assert billions == [[start] * 2, [start + 1] * 2, [start + 2] * 2]


def test_copies_have_random_numbers_where_the_server_gives_none(
    server: Server, server_engine: RecordingEngine
) -> None:
    """Numbers pass 2^53, and come through exactly."""
    server_engine.gate.set()
    with ServiceClient(
        config=Config(base_url=server.base_url, api_key="tml-x", dialect=UNKNOWN)
    ) as service:
        sampler = service.create_sampling_client(base_model="fake/base")
        sampler._client._session.transport.server.update_dialect(joins_samplers=False)
        before = server_engine.count("sample")
        first, second = (pickle.loads(pickle.dumps(sampler._client)) for _ in range(2))
        numbers = [number for pair in _numbers([first, second]) for number in pair]
    assert len(set(numbers)) == 4
    assert any(number > 2**53 for number in numbers)
    assert all(number < 2**63 for number in numbers)
    assert numbers[1] == numbers[0] + 1
    assert server_engine.count("sample") == before + 4


def test_clients_that_cannot_be_pickled_say_what_to_do(service: Any) -> None:
    trainer = service.create_lora_training_client("fake/base", rank=4)
    for client, words in (
        (trainer, "from a saved state"),
        (service, "a sampling client can be passed"),
        (service.create_rest_client(), "in the process that uses it"),
    ):
        with pytest.raises(TypeError, match=words):
            pickle.dumps(client)
