from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, started
from tinkex.local import serve
from tinkex_server.optional_dependencies import require


def test_a_pending_request_is_408_and_says_what_it_waits_for() -> None:
    with started(RecordingEngine(), hold=0.05) as api:
        promise = api.step(api.model(), 3)
        response = api.send("retrieve_future", request_id=promise["request_id"])
    assert response.status_code == 408
    assert response.json() == {
        "type": "try_again",
        "request_id": promise["request_id"],
        "queue_state": "active",
        "queue_state_reason": "seq_id 3 waits for seq_id 1, which has not come",
    }


def test_a_stop_answers_the_polls_joins_the_threads_and_leaves_no_folder() -> None:
    before = set(threading.enumerate())
    server = serve(engine=RecordingEngine())
    answers: list[int] = []
    with httpx.Client(base_url=server.base_url, timeout=15) as http:
        api = Api(http, RecordingEngine())
        promise = api.step(api.model(), 2)
        polls = [
            threading.Thread(
                target=lambda: answers.append(
                    api.send("retrieve_future", request_id=promise["request_id"]).status_code
                )
            )
            for _ in range(5)
        ]
        for poll in polls:
            poll.start()
        time.sleep(0.3)  # the polls are held by then
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 3
        for poll in polls:
            poll.join(5)
    assert answers == [503] * 5
    assert not server.data_dir.exists()
    assert set(threading.enumerate()) <= before
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.base_url)
    server.close()


def test_a_stop_with_nothing_under_way_takes_no_time() -> None:
    """uvicorn takes at least a tenth of a second, which is most of a short test."""
    times = []
    for _ in range(5):
        server = serve(engine=RecordingEngine())
        with httpx.Client(base_url=server.base_url) as http:
            assert http.get("/api/v1/healthz").is_success
            began = time.monotonic()
            server.close()
            times.append(time.monotonic() - began)
    assert min(times) < 0.1


def test_a_stop_waits_for_the_step_under_way() -> None:
    engine = RecordingEngine()
    server = serve(engine=engine)
    with httpx.Client(base_url=server.base_url) as http:
        api = Api(http, engine)
        model_id = api.model()
        api.step(model_id, 1, 96)
        api.step(model_id, 2, 7)
        assert engine.waiting.acquire(timeout=5)
    threading.Timer(0.3, engine.gate.set).start()
    server.close()
    assert engine.gate.is_set()
    assert engine.count("forward_backward", model_id, "7") == 0


def test_a_stop_waits_for_it_too_when_waiting_for_the_server_was_interrupted() -> None:
    engine = RecordingEngine()
    main = threading.main_thread().ident
    assert main
    with serve(engine=engine) as server, httpx.Client(base_url=server.base_url) as http:
        api = Api(http, engine)
        api.step(api.model(), 1, 96)
        assert engine.waiting.acquire(timeout=5)
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            server.wait()
        threading.Timer(0.3, engine.gate.set).start()
    assert engine.gate.is_set()


def test_several_servers_run_at_once() -> None:
    with started(RecordingEngine()) as one, started(RecordingEngine()) as other:
        model_id = one.model()
        assert one.send("get_info", model_id=model_id).status_code == 200
        assert other.send("get_info", model_id=model_id).status_code == 404


def test_a_port_in_use_is_an_error_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(engine=RecordingEngine(), port=taken.getsockname()[1])


def test_a_data_folder_of_another_release_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "tinkex.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RuntimeError, match="layout 99"):
        serve(engine=RecordingEngine(), data_dir=tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tinkex.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RuntimeError, match=r"cannot be used as a database.* listed again"):
        serve(engine=RecordingEngine(), data_dir=tmp_path)


def test_importing_the_server_does_not_import_torch() -> None:
    code = (
        "import sys, tinkex.local, tinkex.cli; print([m for m in ('torch', 'starlette', 'numpy') "
        "if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_a_missing_package_is_named_with_the_way_to_install_it() -> None:
    with pytest.raises(
        ImportError,
        match=r"needs no_such_module: .*pip install torch.*pip install 'tinkex\[local\]'",
    ):
        require("sys", "no_such_module")


def test_an_answer_does_not_wait_for_the_clients_acknowledgement() -> None:
    """The acknowledgement takes 40 ms on a connection that is used again."""
    with (
        serve(engine=RecordingEngine()) as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        times = []
        for _ in range(15):
            began = time.monotonic()
            assert http.get("/api/v1/healthz").is_success
            times.append(time.monotonic() - began)
    assert sorted(times)[7] < 0.035
