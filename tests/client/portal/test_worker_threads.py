"""A thread that outlives the main one trains to its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.counting_engine import ROOT
from tests.support.recording_engine import RecordingEngine
from tinkex.local import Server

_PROGRAM = """
import threading, tinkex
from tinkex import AdamParams, Datum, ModelInput
def work():
    threading.main_thread().join()
    with tinkex.ServiceClient(base_url="{base_url}", api_key="tml-x") as service:
        trainer = service.create_lora_training_client("fake/base", rank=4)
        data = [Datum(ModelInput.from_ints([1, 2]), {{"target_tokens": [2, 3]}})]
        for _ in range(2):
            trainer.train_step(data, "cross_entropy", AdamParams()).result(30)
        print("trained", flush=True)
threading.Thread(target=work).start()
"""


_WITH_ASYNCIO = """
import asyncio, tempfile, threading, tinkex
from tinkex import AdamParams, Datum, ModelInput
async def train(base_url):
    async with tinkex.AsyncServiceClient(base_url=base_url, api_key=lambda: "tml-x") as service:
        trainer = await service.create_lora_training_client("fake/base", rank=4)
        data = [Datum(ModelInput.from_ints([1, 2]), {{"target_tokens": [2, 3]}})]
        for _ in range(2):
            await trainer.train_step(data, "cross_entropy", AdamParams())
        saved = await trainer.save_state("late")
        with tempfile.TemporaryDirectory() as folder:
            await service.create_rest_client().download_checkpoint(saved.path, output_dir=folder)
        print("trained", flush=True)
def work():
    threading.main_thread().join()
    asyncio.run(train("{base_url}"))
threading.Thread(target=work).start()
"""


_BY_TWINS = """
import asyncio, threading, tinkex
async def look(service):
    service_twin = await service.get_server_capabilities_async()
    rest_twin = await service.create_rest_client().list_sessions_async()
    print("trained", flush=True)
def work():
    threading.main_thread().join()
    with tinkex.ServiceClient(base_url="{base_url}", api_key="tml-x") as service:
        asyncio.run(look(service))
threading.Thread(target=work).start()
"""


_WITH_ITS_OWN_SERVER = """
import threading, tinkex, tinkex.local
from tinkex import AdamParams, Datum, ModelInput
from tinkex_server.engine.fake import FakeEngine
def work(server):
    threading.main_thread().join()
    with server, tinkex.ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        trainer = service.create_lora_training_client("fake/base", rank=4)
        data = [Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3]})]
        trainer.train_step(data, "cross_entropy", AdamParams()).result(30)
        trainer.save_state("late").result(30)
        sampler = trainer.save_weights_and_get_sampling_client()
        sampler.sample([1, 2], 1, {"max_tokens": 3}).result(30)
        service.create_rest_client().list_user_checkpoints()
        print("trained", flush=True)
server = tinkex.local.serve(engine=FakeEngine(["fake/base"]))
threading.Thread(target=work, args=[server]).start()
"""


@pytest.mark.parametrize(
    "program", [_PROGRAM, _WITH_ASYNCIO, _BY_TWINS], ids=["blocking", "asyncio", "twins"]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_worker_trains_after_the_main_thread_has_ended(
    server: Server, server_engine: RecordingEngine, host: str, program: str
) -> None:
    server_engine.gate.set()
    check(program.format(base_url=server.base_url.replace("127.0.0.1", host)))


def test_a_server_in_a_script_outlives_the_main_thread() -> None:
    check(_WITH_ITS_OWN_SERVER)


def check(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("trained", 0), done.stderr
    assert "Traceback" not in done.stderr
