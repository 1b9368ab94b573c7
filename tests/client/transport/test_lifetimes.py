"""Clients on several event loops, clients that nobody closes, and scripts that end: all over real
sockets.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_calls import CALLS
from tests.support.counting_engine import ROOT
from tests.support.wait_until import wait_until
from tinkex import (
    AdminClient,
    AsyncRestClient,
    AsyncServiceClient,
    ClientClosedError,
    ServiceClient,
)
from tinkex.local import Server, serve
from tinkex.transport.lifetimes import LoopBinding

REST_CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "list": lambda rest: rest.list_training_runs(),
    "download": lambda rest: rest.download_checkpoint(
        "tinker://a:train:0/weights/b", output_dir="nowhere"
    ),
}


async def made(base_url: str) -> tuple[AsyncServiceClient, Any, Any]:
    service = AsyncServiceClient(base_url=base_url)
    trainer = await service.create_lora_training_client("fake/base", 8)
    return service, trainer, await service.create_sampling_client(base_model="fake/base")


async def awaited(call: Callable[[], Any]) -> Any:
    return await call()


@pytest.mark.parametrize("name", CALLS)
def test_every_call_on_another_event_loop_says_so(name: str, server: Server) -> None:
    service, trainer, sampler = asyncio.run(made(server.base_url))
    with pytest.raises(ClientClosedError, match="belongs to another event loop, which has ended"):
        asyncio.run(awaited(lambda: CALLS[name](trainer, sampler)))
    with pytest.raises(ClientClosedError, match="belongs to another event loop"):
        asyncio.run(awaited(lambda: service.create_lora_training_client("fake/base", 8)))
    asyncio.run(service.close())
    with pytest.raises(ClientClosedError, match="the service client was closed"):
        asyncio.run(awaited(lambda: service.create_lora_training_client("fake/base", 8)))


@pytest.mark.parametrize("name", REST_CALLS)
def test_a_client_without_a_session_says_so_too_and_can_be_closed(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a download makes its folder there
    rest = AsyncRestClient(base_url=server.base_url)
    asyncio.run(awaited(rest.get_server_capabilities))
    with pytest.raises(ClientClosedError, match="belongs to another event loop, which has ended"):
        asyncio.run(awaited(lambda: REST_CALLS[name](rest)))
    asyncio.run(rest.close())


def test_a_client_is_closed_from_another_loop_while_its_own_runs(own_server: Server) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        begun = asyncio.run_coroutine_threadsafe(made(own_server.base_url), loop)
        service, trainer, _ = begun.result()
        with pytest.raises(ClientClosedError, match="runs in another thread"):
            asyncio.run(awaited(trainer.get_info))
        asyncio.run(service.close())
        assert endings(own_server) == ["success"]
    finally:  # or the thread keeps pytest from ending
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_a_client_whose_loop_was_left_is_closed_all_the_same(server: Server) -> None:
    loop = asyncio.new_event_loop()
    rest = AsyncRestClient(base_url=server.base_url)
    loop.run_until_complete(rest.get_server_capabilities())
    asyncio.run(rest.close())
    with pytest.raises(ClientClosedError):
        asyncio.run(awaited(rest.get_server_capabilities))
    loop.close()


@pytest.mark.parametrize("closes", [False, True])
def test_the_last_work_ends_if_the_loop_of_the_client_stops_meanwhile(closes: bool) -> None:
    loop, binding = asyncio.new_event_loop(), LoopBinding()
    began, done = threading.Event(), list[str]()

    async def bind() -> None:
        binding.check("test")

    async def work() -> None:
        began.set()
        await asyncio.sleep(0.5)
        done.append("work")

    def run_and_stop() -> None:
        loop.run_forever()
        if closes:
            loop.close()

    def stop() -> None:
        began.wait()
        loop.call_soon_threadsafe(loop.stop)

    loop.run_until_complete(bind())
    threads = threading.Thread(target=run_and_stop), threading.Thread(target=stop)
    for thread in threads:
        thread.start()
    wait_until(loop.is_running)
    ended = asyncio.run(asyncio.wait_for(binding.run(work), 20))
    for thread in threads:
        thread.join()
    assert (ended, done) == ((False, []) if closes else (True, ["work"]))
    loop.close()


def test_waiting_for_the_last_work_can_be_cancelled() -> None:
    loop, binding = asyncio.new_event_loop(), LoopBinding()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    cancelled = threading.Event()

    async def bind() -> None:
        binding.check("test")

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    try:
        asyncio.run_coroutine_threadsafe(bind(), loop).result()
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(binding.run(work), 0.3))
        assert cancelled.wait(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    loop.close()


@pytest.fixture
def own_server() -> Any:
    with serve("fake/base", engine="fake") as server:
        yield server


def endings(server: Server) -> list[str]:
    """Returns the reasons for which sessions of the server were finished."""
    with AdminClient(base_url=server.base_url) as admin:
        return [
            entry.event_details["reason"]
            for entry in admin.get_audit_log().entries
            if entry.event == "session.finished"
        ]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def eventually(value: Callable[[], Any], expected: Any) -> None:
    ends = time.monotonic() + 5
    while value() != expected and time.monotonic() < ends:
        time.sleep(0.02)
    assert value() == expected


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts open files as Linux shows them"
)
@pytest.mark.parametrize("facade", ["blocking", "asyncio"])
def test_clients_that_nobody_closes_leave_no_connection_no_task_and_no_session(
    own_server: Server, facade: str
) -> None:
    def drop() -> None:
        service = ServiceClient(base_url=own_server.base_url)
        sampler = service.create_sampling_client(base_model="fake/base")
        sampler.sample([1], 1, {"max_tokens": 1}).result()

    async def drop_one() -> None:
        service = AsyncServiceClient(base_url=own_server.base_url)
        sampler = await service.create_sampling_client(base_model="fake/base")
        await sampler.sample([1], 1, {"max_tokens": 1})

    async def drop_some() -> None:
        for _ in range(10):
            await drop_one()
        gc.collect()
        await asyncio.sleep(0.5)
        assert len(asyncio.all_tasks()) == 1, "its own"
        assert descriptors() <= before + 4

    drop()
    gc.collect()
    eventually(lambda: endings(own_server), ["interrupted"])
    before = descriptors()
    if facade == "asyncio":
        asyncio.run(drop_some())
    else:
        for _ in range(10):
            drop()
        gc.collect()
    eventually(lambda: endings(own_server), ["interrupted"] * 11)
    eventually(lambda: descriptors() <= before, True)


def test_what_is_still_held_goes_on_when_its_service_client_is_dropped(own_server: Server) -> None:
    trainer = ServiceClient(base_url=own_server.base_url).create_lora_training_client(
        "fake/base", 8
    )
    rest = ServiceClient(base_url=own_server.base_url).create_rest_client()
    gc.collect()
    time.sleep(0.2)
    assert trainer.get_info().model_id == trainer.model_id
    assert rest.get_server_capabilities().supported_models
    assert endings(own_server) == []
    del trainer
    gc.collect()
    eventually(lambda: endings(own_server), ["interrupted"])


def run(program: str, base_url: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "TINKER_BASE_URL": base_url,
        "TINKER_API_KEY": "tml-x",
        "TINKEX_MAX_RETRIES": "0",
    }
    return subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


_SCRIPTS = {
    "a blocking script": """
import tinkex
tinkex.ServiceClient().create_lora_training_client("fake/base", 8)
""",
    "an asyncio script": """
import asyncio, tinkex
async def main():
    await tinkex.AsyncServiceClient().create_lora_training_client("fake/base", 8)
asyncio.run(main())
""",
    "a sampler from a pickle that is dropped": """
import pickle, sys, tinkex
with tinkex.ServiceClient() as service:
    copy = pickle.loads(pickle.dumps(service.create_sampling_client(base_model="fake/base")))
    copy.sample([1], 1, {"max_tokens": 1}).result()
    del copy
""",
    "the same with asyncio": """
import asyncio, gc, pickle, tinkex
async def main():
    async with tinkex.AsyncServiceClient() as service:
        sampler = await service.create_sampling_client(base_model="fake/base")
        copy = pickle.loads(pickle.dumps(sampler))
        del sampler
        await copy.sample([1], 1, {"max_tokens": 1})
        del copy
        gc.collect()
asyncio.run(main())
""",
    "a REST client": "import tinkex\ntinkex.RestClient().get_server_capabilities()",
    "an asyncio REST client": """
import asyncio, tinkex
asyncio.run(tinkex.AsyncRestClient().get_server_capabilities())
""",
}


@pytest.mark.parametrize("name", _SCRIPTS)
def test_a_script_that_ends_without_closing_its_client_prints_nothing_to_stderr(
    name: str, server: Server
) -> None:
    done = run(_SCRIPTS[name], server.base_url)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", ["a blocking script", "an asyncio script", "a REST client", "an asyncio REST client"]
)
@pytest.mark.parametrize("trouble", ["nobody there", "a wrong key"])
def test_a_script_that_fails_ends_with_the_advice_of_our_error(name: str, trouble: str) -> None:
    if trouble == "nobody there":
        done = run(_SCRIPTS[name], "http://127.0.0.1:1")
    else:
        with serve("fake/base", engine="fake", api_key="tml-other") as server:
            done = run(_SCRIPTS[name], server.base_url)
    assert done.returncode == 1
    assert "Unclosed" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        ("  Is the server running", "  Check TINKER_API_KEY")
    )
