"""A sampling client can be sent to another process, and the key stays at home."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tinkex import Config, ServiceClient
from tinkex.local import Server

SCRIPTS = {
    "blocking": """
        import pickle, sys
        sampler = pickle.load(sys.stdin.buffer)
        print([sampler.sample([token], 1, {"max_tokens": 1}).result().sequences[0].tokens[0] for token in (5, 6)])
    """,
    "asyncio": """
        import asyncio, pickle, sys
        async def main():
            sampler = pickle.load(sys.stdin.buffer)
            print([(await sampler.sample([token], 1, {"max_tokens": 1})).sequences[0].tokens[0] for token in (5, 6)])
        asyncio.run(main())
    """,
}


@pytest.fixture
def sampler(server: Server, server_engine: FakeEngine) -> Any:
    server_engine.gate.set()
    config = Config(base_url=server.base_url, api_key="tml-secret", default_headers={"X-Auth": "hidden", "X-Team": "one"})
    with ServiceClient(config=config) as service:
        yield service.create_sampling_client(base_model="fake/base")


@pytest.mark.parametrize("facade", SCRIPTS)
def test_other_processes_sample_by_it_at_once(sampler: Any, server_engine: FakeEngine, facade: str) -> None:
    raw = pickle.dumps(sampler if facade == "blocking" else sampler._client)
    before = server_engine.count("sample")
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(SCRIPTS[facade])]
    environment = os.environ | {"TINKER_API_KEY": "tml-other"}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    outputs = [process.communicate(raw, timeout=60) for process in processes]
    assert [output for output, _ in outputs] == [b"[5, 6]\n"] * 2, outputs
    assert sampler.sample([7], 1, {"max_tokens": 1}).result().sequences[0].tokens == [7, 1]
    assert server_engine.count("sample") - before == 5, "no number was used twice: each sample was drawn"


def test_the_key_does_not_go_along(sampler: Any) -> None:
    raw = pickle.dumps(sampler)
    assert b"tml-secret" not in raw
    assert b"hidden" not in raw
    assert b"X-Team" in raw


def test_a_copy_in_this_process_works_too(sampler: Any) -> None:
    with pickle.loads(pickle.dumps(sampler)) as copy:
        assert copy.sampling_session_id == sampler.sampling_session_id
        assert copy.compute_logprobs([5, 6]).result() == [None, -1.0]
    assert sampler.compute_logprobs([5, 6]).result() == [None, -1.0], "the first one's connections are its own"
