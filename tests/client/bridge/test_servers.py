"""The servers behind a bridge: routes, paths that only they know, calls that they lack, files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import httpx
import pytest
from attrs import evolve

from tests.support.counting_engine import CountingEngine
from tests.support.server_calls import API, Api, new_model, sample, saved
from tests.support.wait_until import wait_until
from tinkex import RestClient, ServiceClient, SessionSearchRequest
from tinkex.bridge.routing import Route, Routing, Target
from tinkex.errors import ConfigError
from tinkex.local import Server, serve


def test_the_first_route_that_matches_a_model_is_taken(bridged: Callable[..., Api]) -> None:
    [base] = CountingEngine().base_models
    first, second = (
        CountingEngine(base_models=[evolve(base, name=name)]) for name in ("Qwen/a", "other/b")
    )
    with serve(engine=first) as one, serve(engine=second) as other:
        route = Route("Qwen/*", Target(one.base_url))
        api = bridged(Routing(Target(other.base_url), [route, Route("Qwen/a", Target("http://x"))]))
        session_id = api.session()
        for number, name in enumerate(("Qwen/a", "other/b")):
            body = new_model(session_id, number, base_model=name)
            assert "error" not in api.result(api.ok("create_model", **body))
        named = api.get("get_server_capabilities").json()["supported_models"]
    assert (len(first.models), len(second.models)) == (1, 1)
    assert {model["model_name"] for model in named} == {"other/b", "Qwen/a"}


def test_a_bridge_does_not_promise_to_tell_what_a_server_behind_it_has_lost(
    bridged: Callable[..., Api],
) -> None:
    assert bridged().ok("client/config", sdk_version="1")["reports_state_loss"] is False


@pytest.mark.parametrize("text", ["Qwen/*", "=http://x", "Qwen/*=", "Qwen/*=x"])
def test_what_is_no_route_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Route.parse(text)


def test_a_path_of_the_server_is_loaded_sampled_and_described(
    bridged: Callable[..., Api], upstream: Server
) -> None:
    with ServiceClient(upstream.base_url, "tml-caller") as service:
        trainer = service.create_lora_training_client("fake/base", rank=4)
        state, weights = trainer.save_state("one"), trainer.save_weights_for_sampler("two")
        state_path, sampler_path = state.result().path, weights.result().path
    api = bridged()
    session_id = api.session()
    info = api.ok("weights_info", tinker_path=state_path)
    assert (info["base_model"], info["lora_rank"]) == ("fake/base", 4)
    loaded = api.ok(
        "load_weights", session_id=session_id, model_seq_id=0, path=state_path, optimizer=True
    )
    assert api.result(loaded)["model_id"] == f"{session_id}:train:0"
    sampler_id = api.sampler(session_id, model_path=sampler_path)
    assert api.get(f"samplers/{sampler_id}").json()["base_model"] == "fake/base"
    assert api.result(api.ok("asample", **sample(sampler_id, 0)))["sequences"]


def test_what_is_done_to_a_checkpoint_is_done_on_the_server(
    bridged: Callable[..., Api], upstream: Server
) -> None:
    api = bridged()
    _, url = saved(api)
    with RestClient(base_url=upstream.base_url, api_key="tml-caller") as rest:
        assert api.http.post(f"{url}/publish").status_code == 200
        assert api.http.post(f"{url}/publish").status_code == 200
        assert [each.public for each in rest.list_user_checkpoints().checkpoints] == [True]
        assert api.http.put(f"{url}/ttl", json={"ttl_seconds": 60}).status_code == 200
        assert [bool(each.expires_at) for each in rest.list_user_checkpoints().checkpoints] == [
            True
        ]
        assert api.http.delete(url).status_code == 200
        assert rest.list_user_checkpoints().checkpoints == []


@pytest.mark.parametrize("kind", ["save_weights_for_sampler", "save_weights_external"])
def test_files_are_fetched_from_the_server_when_they_are_asked_for(
    bridged: Callable[..., Api], kind: str
) -> None:
    api = bridged()
    _, url = saved(api, kind=kind)
    redirect = api.http.get(f"{url}/archive")
    assert redirect.status_code == 302
    # the URL needs no key
    with httpx.Client() as anybody:
        archive = anybody.get(redirect.headers["Location"])
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        assert "adapter_model.safetensors" in tar.getnames()
    assert httpx.get(redirect.headers["Location"] + "0").status_code == 403


def test_a_call_that_the_server_lacks_is_refused_with_what_to_do_instead(
    bridged: Callable[..., Api], engine: CountingEngine
) -> None:
    with serve(engine=engine, profile="open-rl", hold=0.2) as lacking:
        api = bridged(Routing(Target(lacking.base_url, "open-rl")))
        _, url = saved(api)
        refused = api.http.post(f"{url}/publish")
        archive = api.http.get(f"{url}/archive")
    assert (refused.status_code, archive.status_code) == (400, 400)
    assert "open-rl has no publish_checkpoint" in refused.json()["detail"]
    assert "Save the weights with save_weights_external" in archive.json()["detail"]


def test_what_no_server_could_do_is_refused_as_the_embedded_server_does(
    bridged: Callable[..., Api],
) -> None:
    api = bridged()
    session_id = api.session()
    without_rank = new_model(session_id, 0, lora_config={"rank": 0})
    assert api.send("create_model", **without_rank).status_code == 422
    body = {"model_id": api.model(session_id, 1), "path": "one"}
    both = api.send("save_weights_for_sampler", **body, seq_id=1, sampling_session_seq_id=0)
    assert (both.status_code, "together with path" in both.text) == (422, True)
    inflight = api.send("save_weights_for_sampler", **body, seq_id=2, kind="inflight")
    assert (inflight.status_code, "cannot be inflight" in inflight.text) == (422, True)
    assert api.result(api.ok("save_weights_for_sampler", **body, seq_id=3))["path"]


def test_a_finished_session_is_finished_on_the_server(
    bridged: Callable[..., Api], upstream: Server, engine: CountingEngine
) -> None:
    api = bridged()
    session_id = api.session()
    api.model(session_id)
    assert len(engine.models) == 1
    body = {"reason": {"type": "success"}, "detail": None}
    assert api.http.post(f"{API}/sessions/{session_id}/finish", json=body).status_code == 200
    wait_until(lambda: not engine.models)
    with RestClient(base_url=upstream.base_url, api_key="tml-caller") as rest:
        [there] = rest.search_sessions(SessionSearchRequest()).sessions
    assert there.status.type == "client_finished"
