"""The key of the caller goes to the server, or the bridge's own; nothing is kept of either."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.bridge.conftest import step_body
from tests.support.counting_engine import CountingEngine
from tests.support.server_calls import Api, new_model
from tinkex.bridge.routing import Routing, Target
from tinkex.local import serve
from tinkex_server.access.api_keys import ApiKeyRequired

ONE, OTHER = "tml-key-of-one-caller", "tml-key-of-another"


def test_the_callers_key_goes_to_the_server(
    bridged: Callable[..., Api], engine: CountingEngine
) -> None:
    with serve(engine=engine, api_key=ONE) as guarded:
        routing = Routing(Target(guarded.base_url))
        assert bridged(routing, key=ONE).model()
        refused = bridged(routing, key=OTHER).send("create_session", tags=[])
    assert refused.status_code == 401
    assert guarded.base_url in refused.json()["detail"]


def test_the_bridges_key_replaces_the_callers(
    bridged: Callable[..., Api], engine: CountingEngine
) -> None:
    with serve(engine=engine, api_key=ONE) as guarded:
        assert bridged(Routing(Target(guarded.base_url)), key="tml-any", api_key=ONE).model()


def test_what_one_key_made_no_other_key_sees(bridged: Callable[..., Api]) -> None:
    mine = bridged(key=ONE)
    model_id = mine.model()
    mine.http.headers["X-API-Key"] = OTHER
    assert mine.send("optim_step", **step_body(model_id, 1)).status_code == 404
    assert mine.get("training_runs").json()["training_runs"] == []
    mine.http.headers["X-API-Key"] = ONE
    assert "error" not in mine.result(mine.ok("optim_step", **step_body(model_id, 1)))


def test_no_key_is_on_the_disk_or_in_the_log(
    bridged: Callable[..., Api],
    engine: CountingEngine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(engine=engine, api_key=ONE) as guarded:
        routing = Routing(Target(guarded.base_url))
        api = bridged(routing, key=ONE, data_dir=tmp_path, access_log=True)
        api.model()
        api.http.headers["X-API-Key"] = OTHER
        assert api.send("create_session", tags=[]).status_code == 401
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    for key in (ONE, OTHER):
        assert not [file for file in files if key.encode() in file.read_bytes()]
        assert key not in caplog.text


def test_with_a_key_of_its_own_it_listens_on_this_machine_alone(
    bridged: Callable[..., Api],
) -> None:
    with pytest.raises(ApiKeyRequired):
        bridged(host="0.0.0.0", api_key=ONE)


def test_a_page_of_a_browser_is_refused(bridged: Callable[..., Api]) -> None:
    api = bridged()
    api.http.headers["Origin"] = "https://elsewhere.example"
    assert api.send("create_session", tags=[]).status_code == 403


def test_a_server_that_is_not_there_is_named(bridged: Callable[..., Api]) -> None:
    api = bridged(Routing(Target("http://127.0.0.1:9")))
    refused = api.send("create_session", tags=[])
    assert refused.status_code == 503
    assert "http://127.0.0.1:9 cannot be reached" in refused.json()["detail"]
    assert api.send("create_model", **new_model("s-unknown")).status_code == 404
