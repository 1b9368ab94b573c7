"""The blocking facade where threads, forks, notebooks and endings are concerned."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tinkex import ServiceClient, TinkexError
from tinkex.local import Server


@pytest.fixture
def blocking(server: Server, server_engine: RecordingEngine):
    server_engine.gate.set()
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        yield service


def test_blocking_calls_work_inside_a_running_event_loop(blocking: ServiceClient) -> None:
    async def cell_of_a_notebook() -> str:
        return blocking.create_lora_training_client("fake/base").base_model

    assert asyncio.run(cell_of_a_notebook()) == "fake/base"


def test_threads_may_share_a_client(blocking: ServiceClient) -> None:
    sampler = blocking.create_sampling_client(base_model="fake/base")
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(
                lambda token: sampler.sample([token], 1, {"max_tokens": 1}).result(), range(1, 60)
            )
        )
    assert [result.sequences[0].tokens[0] for result in results] == list(range(1, 60))


def test_a_callback_may_make_blocking_calls(blocking: ServiceClient) -> None:
    sampler = blocking.create_sampling_client(base_model="fake/base")
    seen: list[object] = []
    called = threading.Event()

    def follow_up(future: object) -> None:
        seen.append(sampler.compute_logprobs([5, 6]).result())
        called.set()

    sampler.sample([5], 1, {"max_tokens": 1}).add_done_callback(follow_up)
    assert called.wait(10)
    assert seen == [[None, -1.0]]


def test_a_call_on_the_portals_own_thread_is_refused_rather_than_hung(
    blocking: ServiceClient,
) -> None:
    async def inside() -> None:
        blocking.get_server_capabilities()

    from tinkex.portal import portal

    with pytest.raises(TinkexError, match="another thread"):
        portal.shared().run(inside)


def test_cancel_stops_the_wait(blocking: ServiceClient, server_engine: RecordingEngine) -> None:
    sampler = blocking.create_sampling_client(base_model="fake/base")
    server_engine.gate.clear()
    future = sampler.sample([96], 1, {"max_tokens": 1})
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(5)
    server_engine.gate.set()
    assert not future.cancel()


def run(script: str, server: Server) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), server.base_url],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_fork_refuses_old_clients_and_makes_new_ones(server: Server) -> None:
    done = run(
        """
        import os, sys, tinkex
        old = tinkex.ServiceClient(base_url=sys.argv[1], api_key="x")
        old.get_server_capabilities()
        child = os.fork()
        if not child:
            try:
                old.get_server_capabilities()
            except tinkex.ClientClosedError as error:
                print("refused:", error.message)
            with tinkex.ServiceClient(base_url=sys.argv[1], api_key="x") as new:
                [model] = new.get_server_capabilities().supported_models[:1]
                print("new:", model.model_name, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print("old:", old.get_server_capabilities().supported_models[0].model_name)
        """,
        server,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(
        "refused: this client was created before the process was forked"
    )
    assert done.stdout.splitlines()[1:] == ["new: fake/base", "old: fake/base"]


def test_a_script_that_forgets_to_close_still_ends_and_ends_its_session(server: Server) -> None:
    done = run(
        """
        import sys, tinkex
        service = tinkex.ServiceClient(base_url=sys.argv[1], api_key="x")
        print(service.create_lora_training_client("fake/base").model_id)
        """,
        server,
    )
    assert (done.returncode, done.stderr) == (0, "")
    session_id = done.stdout.partition(":")[0]
    answer = httpx.post(
        f"{server.base_url}/api/v1/session_heartbeat", json={"session_id": session_id}
    )
    assert answer.status_code == 410


def test_ctrl_c_ends_a_wait_at_once(server: Server, server_engine: RecordingEngine) -> None:
    server_engine.gate.clear()
    script = """
        import sys, tinkex, datetime
        with tinkex.ServiceClient(base_url=sys.argv[1], api_key="x") as service:
            sampler = service.create_sampling_client(base_model="fake/base")
            future = sampler.sample([96], 1, {"max_tokens": 1})
            print("waiting", flush=True)
            future.result()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), server.base_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        server_engine.gate.set()
    assert time.monotonic() - began < 5
    assert "KeyboardInterrupt" in errors.splitlines()[-1]
