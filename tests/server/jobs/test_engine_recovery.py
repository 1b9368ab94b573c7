"""The recovery of models from an engine that died: what the engine holds afterwards, and what a
server that has stopped does with the news.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field

from tests.support.killable_engine import BASES, KillableEngine
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, calls, saved_folder, started, step
from tests.support.wait_until import wait_until
from tinkex.local import serve
from tinkex_server.engine.interface import EngineDied, EngineExit
from tinkex_server.engine.process.engine import ProcessEngine


@define(eq=False)
class MortalEngine(RecordingEngine):
    """An engine that loses its memory when the test says so."""

    report: Callable[[EngineExit], None] = field(init=False)
    is_closed: bool = False

    def unload_model(self, model_id: str) -> None:
        if self.is_closed:
            raise EngineDied("the engine was closed")
        super().unload_model(model_id)

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        self.report = died

    def die(self) -> None:
        self.models.clear()
        self.report(EngineExit("the engine died", lambda: None))


@pytest.fixture
def engine() -> MortalEngine:
    return MortalEngine()


@pytest.fixture
def mortal_api(engine: MortalEngine, tmp_path: Path) -> Iterator[Api]:
    with started(engine, data_dir=tmp_path) as api:
        yield api


def saved_model(api: Api, name: str) -> str:
    model_id = api.model()
    api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path=name))
    return model_id


def told_to_client(api: Api, model_id: str) -> str:
    """Returns what the sender of a request is told of the model that was not restored."""
    answer = api.send("forward", **step(model_id, None, path="forward"))
    if answer.status_code == 404:  # it was given up by then
        return answer.json()["detail"]
    return api.result(answer.json())["error"]


def test_a_model_that_is_restored_is_in_the_engine_once(
    mortal_api: Api, engine: MortalEngine
) -> None:
    model_id = saved_model(mortal_api, "fine")
    engine.die()
    mortal_api.result(mortal_api.step(model_id, 2))
    assert engine.models == {model_id}


def test_a_model_whose_saved_weights_cannot_be_loaded_is_not_left_in_the_engine(
    mortal_api: Api, engine: MortalEngine
) -> None:
    model_id = saved_model(mortal_api, "misfit")
    engine.die()
    assert "could not be restored: the saved weights do not fit" in told_to_client(
        mortal_api, model_id
    )
    assert engine.models == set()


def test_a_model_whose_saved_weights_are_damaged_is_not_left_in_the_engine(
    mortal_api: Api, engine: MortalEngine, tmp_path: Path
) -> None:
    model_id = saved_model(mortal_api, "fine")
    folder = saved_folder(tmp_path, model_id, "weights", "fine")
    (folder / "adapter_model.safetensors").write_bytes(b"54321")
    engine.die()
    assert "is not as it was saved" in told_to_client(mortal_api, model_id)
    assert engine.models == set()


def test_a_model_is_unloaded_with_an_engine_that_is_closed(
    mortal_api: Api, engine: MortalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Sessions still end after Ctrl-C has closed an engine that was starting."""
    model_id = mortal_api.model()
    engine.is_closed = True
    promise = mortal_api.ok("unload_model", model_id=model_id)
    assert mortal_api.result(promise)["type"] == "unload_model"
    assert not caplog.records


def test_an_engine_that_dies_after_its_server_has_stopped_serves_the_next_one() -> None:
    engine = ProcessEngine(KillableEngine, BASES, pauses=(0, 0))
    try:
        engine.ready.result(20)
        serve(engine=engine).close()
        dead = engine.pid
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: engine.pid != dead)
        with serve(engine=engine) as server, calls(server.base_url) as api:
            assert api.model()
    finally:
        engine.close()
