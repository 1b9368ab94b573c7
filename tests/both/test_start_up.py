"""The server answers before its engine can compute; what needs the engine waits for it, and is told
when it cannot start.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

import tinkex.local
from tests.support.inner_pytest import run_pytest
from tests.support.killable_engine import BASES, cannot_be_made, starts_slowly
from tests.support.programs import running
from tests.support.server_calls import Api, new_model
from tinkex import RequestFailedError
from tinkex_server.engine.interface import EngineDied, InvalidRequest
from tinkex_server.engine.process.engine import ProcessEngine

BASE = "fake/base"
ROOT = Path(__file__).parents[2]
TINY = ROOT / "tinkex" / "tiny"
NEVER_SAID = 30  # seconds, in which all that is waited for here has come


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The engine is ready when this file is there."""
    return tmp_path / "gate"


@pytest.fixture
def starting(gate: Path) -> Iterator[tinkex.local.Server]:
    """A server whose engine waits for `gate`."""
    engine = ProcessEngine(partial(starts_slowly, gate), BASES)
    with tinkex.local.serve(engine=engine) as server:
        yield server
        gate.touch()
    engine.close()


@pytest.fixture(scope="module")
def broken_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose weights broke off while they were copied."""
    folder = shutil.copytree(TINY, tmp_path_factory.mktemp("models") / "broken")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return str(folder)


@pytest.fixture(scope="module")
def broken(broken_model: str) -> Iterator[tinkex.local.Server]:
    with tinkex.local.serve(broken_model) as server:
        yield server


def test_requests_that_need_no_engine_are_answered_while_it_starts(
    connect: Callable[..., Any], starting: tinkex.local.Server, gate: Path
) -> None:
    assert [model.name for model in starting.models] == [BASE]
    service = connect(starting.base_url)
    assert [model.model_name for model in service.get_server_capabilities().supported_models] == [
        BASE
    ]
    sample = service.create_sampling_client(base_model=BASE).sample([5, 6], 1, {"max_tokens": 4})
    assert not starting.ready.done()
    assert not sample.done()
    gate.touch()
    assert len(sample.result(timeout=NEVER_SAID).sequences[0].tokens) == 4
    assert starting.ready.done()


def test_a_waiting_client_is_told_what_it_waits_for(gate: Path) -> None:
    engine = ProcessEngine(partial(starts_slowly, gate), BASES)
    with (
        tinkex.local.serve(engine=engine, hold=0) as server,
        httpx.Client(base_url=server.base_url, timeout=NEVER_SAID) as http,
    ):
        api = Api(http, cast("Any", engine))
        made = api.ok("create_model", **new_model(api.session()))
        answer = api.send("retrieve_future", request_id=made["request_id"])
        assert (answer.status_code, answer.json()["queue_state_reason"]) == (
            408,
            "waits for the engine to start",
        )
        page = http.get("/").text
        assert "is starting; requests wait for it" in page
        assert "waits for the engine to start" in page
        gate.touch()
        server.ready.result(NEVER_SAID)
        assert "the fake engine" in http.get("/").text
    engine.close()


def test_a_server_that_stops_does_not_wait_for_its_engine_to_start() -> None:
    with (
        tinkex.local.serve() as server,
        httpx.Client(base_url=server.base_url, timeout=NEVER_SAID) as http,
    ):
        api = Api(http, cast("Any", None))
        api.ok("create_model", **{**new_model(api.session()), "base_model": "tinkex/tiny"})
        assert not server.ready.done()
    with pytest.raises(EngineDied, match="the engine was closed"):
        server.ready.result(0)


def test_calls_fail_with_the_reason_when_the_weights_are_broken(
    broken_model: str, broken: tinkex.local.Server, connect: Callable[..., Any]
) -> None:
    service = connect(broken.base_url)
    assert (
        service.create_sampling_client(base_model=broken_model).get_tokenizer().decode([104, 105])
        == "hi"
    )
    with pytest.raises(RequestFailedError, match=could_not_load(broken_model)) as caught:
        service.create_lora_training_client(broken_model, rank=4)
    assert caught.value.category == "server"
    with pytest.raises(RequestFailedError, match=could_not_load(broken_model)):
        service.create_sampling_client(base_model=broken_model).sample(
            [1], 1, {"max_tokens": 1}
        ).result()


def test_the_handle_and_the_status_page_say_why(
    broken_model: str, broken: tinkex.local.Server
) -> None:
    with pytest.raises(EngineDied, match=could_not_load(broken_model)):
        broken.ready.result(NEVER_SAID)
    assert "the engine could not start" in httpx.get(broken.base_url).text


def test_a_stream_fails_with_the_reason() -> None:
    engine = ProcessEngine(cannot_be_made, BASES)
    with (
        tinkex.local.serve(engine=engine) as server,
        httpx.Client(base_url=server.base_url) as http,
    ):
        api = Api(http, cast("Any", engine))
        prompt = {"chunks": [{"type": "encoded_text", "tokens": [5]}]}
        body = {
            "sampling_session_id": api.sampler(),
            "prompt": prompt,
            "sampling_params": {"max_tokens": 2},
        }
        answer = api.send("asample_stream", **body)
        assert (answer.status_code, answer.json()) == (
            503,
            {"detail": "the engine could not start: there is no folder /none"},
        )
    engine.close()


def could_not_load(model: str) -> str:
    return f"the engine could not start: cannot load the model {re.escape(repr(model))}: .*header"


def command(model: str, folder: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tinkex",
        "serve",
        "--port=0",
        f"--data-dir={folder}",
        f"--model={model}",
    ]


def test_little_is_imported_before_the_engine_starts() -> None:
    script = """
import sys, tinkex.local, tinkex_server.engine.process.child as child

def spawn():
    print(*sorted(name for name in sys.modules if "." not in name))
    raise SystemExit

child._spawn = spawn
from tinkex.cli.serve import command
command(["--port=0"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    imported = set(done.stdout.split())
    assert "numpy" in imported, done.stderr
    assert not imported & {
        "starlette",
        "uvicorn",
        "jinja2",
        "rich",
        "huggingface_hub",
        "torch",
        "transformers",
    }


def test_the_command_says_why_and_ends(broken_model: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(broken_model, tmp_path), capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("tinkex serves http://127.0.0.1:")
    [said] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert re.fullmatch(f"Error: {could_not_load(broken_model)}.*", said)
    assert done.returncode == 1


@pytest.mark.parametrize("model", ["/none", "./none"])
def test_a_model_that_is_not_there_is_refused_at_once(model: str, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=f"cannot find the model '{model}': there is no folder"
    ):
        tinkex.local.serve(model)
    done = subprocess.run(command(model, tmp_path), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: cannot find the model '{model}': there is no folder")


@pytest.mark.usefixtures("new_interpreters")  # the others start in less time than a signal needs
def test_the_command_ends_at_once_while_the_engine_starts(tmp_path: Path) -> None:
    with running(command("tinkex/tiny", tmp_path), stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(NEVER_SAID) == 130
        assert "Ready" not in process.stdout.read()


def test_a_script_with_a_server_of_its_own_is_told() -> None:
    script = """
import functools, tinkex.local
from tests.support.killable_engine import BASES, cannot_be_made
from tinkex_server.engine.process.engine import ProcessEngine
engine = ProcessEngine(cannot_be_made, BASES)
tinkex.local.serve = functools.partial(tinkex.local.serve, engine=engine)
import tinkex
try:
    tinkex.ServiceClient("local").create_lora_training_client("fake/base", rank=4)
except tinkex.RequestFailedError as error:
    print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "the engine could not start: there is no folder /none\n", done.stderr


def test_a_fixture_of_pytest_is_an_error(broken_model: str, tmp_path: Path) -> None:
    source = f"""
import pytest

@pytest.mark.tinkex(engine="torch", model={broken_model!r})
def test_it(tinkex_service):
    raise AssertionError("it has nothing to run on")
"""
    outcomes = run_pytest(tmp_path, {"test_it": source})
    assert outcomes.by_module == {"test_it": {"test_it": "error"}}
    assert re.search(f"EngineDied: {could_not_load(broken_model)}", outcomes.output)
