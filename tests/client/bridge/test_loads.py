"""Loads into a model that exists, through the bridge, on a server that loads only into new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.client.bridge.conftest import step_body
from tests.support.counting_engine import CountingEngine
from tests.support.server_calls import Api
from tinkex.bridge.routing import Routing, Target
from tinkex.local import serve


@pytest.fixture
def api(bridged: Callable[..., Api], engine: CountingEngine) -> Iterator[Api]:
    with serve(engine=engine, profile="tinker-cloud-old", hold=0.2) as server:
        yield bridged(Routing(Target(server.base_url, "tinker-cloud-old")))


def _saved_after_a_step(api: Api, session_id: str) -> str:
    """Returns the path of a model that has taken one step."""
    model_id = api.model(session_id)
    for promise in (api.step(model_id, 1, 1, 2), api.ok("optim_step", **step_body(model_id, 2))):
        assert "error" not in api.result(promise)
    return api.result(api.ok("save_weights", model_id=model_id, seq_id=3, path="one"))["path"]


def _load(api: Api, model_id: str, seq_id: int, path: str) -> dict[str, str]:
    return api.ok("load_weights", model_id=model_id, seq_id=seq_id, path=path, optimizer=True)


def test_a_model_for_which_nothing_was_sent_is_made_anew_before_its_later_requests(
    api: Api, engine: CountingEngine
) -> None:
    session_id = api.session()
    path = _saved_after_a_step(api, session_id)
    trained = set(engine.models)
    model_id = api.model(session_id, 1)
    [empty] = set(engine.models) - trained
    load = _load(api, model_id, 1, path)
    promises = [
        api.step(model_id, 2, 1, 2),
        api.ok("optim_step", **step_body(model_id, 3)),
        api.step(model_id, 4, 1, 2),
    ]
    assert api.result(load)["model_id"] == model_id
    first, _, last = [api.result(promise) for promise in promises]
    assert (first["metrics"]["loss:sum"], last["metrics"]["loss:sum"]) == (1.0, 2.0)
    assert empty not in engine.models
    assert len(engine.models) == 2


def test_a_model_that_has_taken_a_step_is_not_replaced(api: Api, engine: CountingEngine) -> None:
    session_id = api.session()
    path = _saved_after_a_step(api, session_id)
    model_id = api.model(session_id, 1)
    assert "error" not in api.result(api.step(model_id, 1, 1, 2))
    there = set(engine.models)
    refused = api.result(_load(api, model_id, 2, path))
    assert "It loads a checkpoint only into a new model" in refused["error"]
    assert set(engine.models) == there
    assert "error" not in api.result(api.step(model_id, 3, 1, 2))


def test_no_request_runs_on_other_weights_when_the_load_fails(
    api: Api, engine: CountingEngine
) -> None:
    session_id = api.session()
    path = _saved_after_a_step(api, session_id)
    model_id = api.model(session_id, 1)
    load = _load(api, model_id, 1, path.replace("/one", "/none"))
    late = api.step(model_id, 2, 1, 2)
    said = api.result(load)["error"]
    assert "none" in said
    assert f"model {model_id!r} could not be loaded" in api.result(late)["error"]
    assert len(engine.models) == 1
