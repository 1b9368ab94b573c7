"""A bridge that is killed between a POST and its poll, and started again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.client.bridge.conftest import step_body
from tests.support.bridge_process import BridgeProcess, bridge_process
from tests.support.counting_engine import CountingEngine
from tests.support.server_calls import Api, calls, sample, step
from tests.support.wait_until import wait_until
from tinkex.bridge.routing import Routing, Target
from tinkex.bridge.server import serve_bridge
from tinkex.local import Server, serve
from tinkex_server.store import StoreError

WAITS = 96
"""The token whose batch waits for the engine's gate."""


@pytest.fixture
def bridge(
    upstream: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BridgeProcess]:
    with bridge_process(tmp_path, Target(upstream.base_url)) as running:
        yield running


@pytest.fixture
def api(bridge: BridgeProcess) -> Iterator[Api]:
    with calls(bridge.base_url) as api:
        yield api


def restart(bridge: BridgeProcess, engine: CountingEngine) -> None:
    """Kills the bridge, lets the server do what it has, and starts the bridge again."""
    bridge.kill()
    engine.gate.set()
    bridge.start()


def accepted(data_dir: Path, operation: str) -> int:
    """Returns how many requests the journal says that the server has accepted."""
    [file] = data_dir.glob("*/journal.db")
    with closing(sqlite3.connect(file)) as journal:
        return journal.execute(
            "SELECT count(*) FROM requests WHERE operation = ? AND upstream_request IS NOT NULL",
            (operation,),
        ).fetchone()[0]


def test_a_second_bridge_is_not_let_into_the_same_data_folder(
    bridge: BridgeProcess, upstream: Server, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="is in use by another bridge"):
        serve_bridge(Routing(Target(upstream.base_url)), data_dir=tmp_path)


def test_steps_that_the_server_had_accepted_are_applied_once_and_their_results_fetched(
    bridge: BridgeProcess, api: Api, engine: CountingEngine, tmp_path: Path
) -> None:
    model_id = api.model()
    gradients = api.step(model_id, 1, WAITS)
    update = api.ok("optim_step", **step_body(model_id, 2))
    wait_until(lambda: accepted(tmp_path, "optim_step") == 1)

    restart(bridge, engine)

    assert api.ok("optim_step", **step_body(model_id, 2)) == update
    assert api.result(gradients)["metrics"] == {"loss:sum": 0.0}
    assert "error" not in api.result(update)
    assert api.result(api.step(model_id, 3, 1, 2, 3))["metrics"] == {"loss:sum": 1.0}
    assert list(engine.steps.values()) == [1]


def test_a_sampling_session_of_a_model_goes_on(
    bridge: BridgeProcess, api: Api, engine: CountingEngine
) -> None:
    model_id = api.model()
    saved = api.ok(
        "save_weights_for_sampler", model_id=model_id, seq_id=1, sampling_session_seq_id=0
    )
    sampler_id = api.result(saved)["sampling_session_id"]
    before = api.result(api.ok("asample", **sample(sampler_id, 0)))

    restart(bridge, engine)

    after = api.result(api.ok("asample", **sample(sampler_id, 1)))
    assert after["sequences"] == before["sequences"]
    second = api.ok(
        "save_weights_for_sampler", model_id=model_id, seq_id=2, sampling_session_seq_id=1
    )
    assert api.result(second)["sampling_session_id"] != sampler_id


def test_what_was_not_sent_is_said_to_be_not_done(engine: CountingEngine, tmp_path: Path) -> None:
    """This kind of server is sent a step only once the gradients before it are there."""
    with (
        serve(engine=engine, profile="skyrl", hold=0.2) as upstream,
        bridge_process(tmp_path, Target(upstream.base_url, "skyrl")) as bridge,
        calls(bridge.base_url) as api,
    ):
        model_id = api.model()
        gradients = api.step(model_id, 1, WAITS)
        update = api.ok("optim_step", **step_body(model_id, 2))
        wait_until(lambda: accepted(tmp_path, "forward_backward") == 1)

        restart(bridge, engine)

        assert "error" not in api.result(gradients)
        failed = api.result(update)
        assert failed["category"] == "server"
        assert "so it was not done" in failed["error"]
        assert not engine.steps
        done = api.result(api.ok("optim_step", **step_body(model_id, 3)))
        assert "error" not in done
        assert list(engine.steps.values()) == [1]


def test_a_model_whose_server_has_lost_its_session_names_its_last_saved_state(
    bridge: BridgeProcess, api: Api, upstream: Server, engine: CountingEngine
) -> None:
    model_id = api.model()
    saved = api.ok("save_weights", model_id=model_id, seq_id=1, path="one")
    path = api.result(saved)["path"]
    upstream.close()
    with serve(engine=CountingEngine(), port=int(upstream.base_url.rpartition(":")[2])):
        restart(bridge, engine)
        failed = api.result(api.ok("optim_step", **step_body(model_id, 2)))
        refused = api.send("forward_backward", **step(model_id, 3))
    assert failed["category"] == "server"
    assert f"its last saved state is {path}" in failed["error"]
    assert refused.status_code == 404
    assert f"its last saved state is {path}" in refused.json()["detail"]
