"""Steps through the bridge: once each on the server, in order, and both under way at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.client.bridge.conftest import step_body
from tests.support.counting_engine import CountingEngine
from tests.support.server_calls import Api, step
from tests.support.wait_until import wait_until
from tinkex.bridge.routing import Routing, Target
from tinkex.local import Faults, Server, serve


def test_a_repeated_request_is_applied_once(
    bridged: Callable[..., Api], engine: CountingEngine
) -> None:
    api = bridged()
    model_id = api.model()
    first = api.ok("optim_step", **step_body(model_id, 1))
    assert api.ok("optim_step", **step_body(model_id, 1)) == first
    assert "error" not in api.result(first)
    assert list(engine.steps.values()) == [1]


def test_numbers_that_come_in_another_order_run_in_theirs(
    bridged: Callable[..., Api], engine: CountingEngine
) -> None:
    api = bridged()
    model_id = api.model()
    late = api.step(model_id, 3, 1, 2)
    update = api.ok("optim_step", **step_body(model_id, 2))
    first = api.step(model_id, 1, 1, 2)
    assert api.result(first)["metrics"]["loss:sum"] == 0.0
    assert "error" not in api.result(update)
    assert api.result(late)["metrics"]["loss:sum"] == 1.0


def test_a_step_is_sent_before_the_gradients_before_it_are_there(
    bridged: Callable[..., Api], engine: CountingEngine, upstream: Server
) -> None:
    api = bridged()
    model_id = api.model()
    gradients = api.step(model_id, 1, 96)
    update = api.ok("optim_step", **step_body(model_id, 2))
    [there] = engine.models
    # the server behind the bridge has both, though it has done neither
    store = upstream._state.store  # pyright: ignore[reportPrivateUsage]
    wait_until(lambda: store.futures.last_number(there) == 2)
    engine.gate.set()
    assert "error" not in api.result(gradients)
    assert "error" not in api.result(update)


def test_a_step_whose_outcome_is_unknown_fails_plainly_and_is_not_sent_again(
    engine: CountingEngine, bridged: Callable[..., Api]
) -> None:
    faults = Faults(lost_answers=1, operations=("optim_step",))
    with serve(engine=engine, profile="skyrl-0.3", hold=0.2, faults=faults) as ignoring:
        api = bridged(Routing(Target(ignoring.base_url, "skyrl-0.3")))
        model_id = api.model()
        failed = api.result(api.ok("optim_step", **step_body(model_id, 1)))
        assert failed["category"] == "server"
        assert "nobody knows whether it was applied" in failed["error"]
        assert api.ok("optim_step", **step_body(model_id, 1))["request_id"]
        next_one = api.result(api.ok("optim_step", **step_body(model_id, 2)))
        assert "the outcome of an earlier optim_step is unknown" in next_one["error"]
        assert sum(engine.steps.values()) == 1


def test_a_refusal_of_the_server_reaches_the_client_in_its_words(
    bridged: Callable[..., Api],
) -> None:
    api = bridged()
    model_id = api.model()
    refused = api.result(api.step(model_id, 1, 99))
    assert refused["category"] == "user"
    assert "99" in refused["error"]
    assert "error" not in api.result(api.step(model_id, 2, 1))


@pytest.mark.parametrize("status", [200])
def test_a_batch_without_data_is_refused_and_its_number_counts(
    bridged: Callable[..., Api], status: int
) -> None:
    api = bridged()
    model_id = api.model()
    body = step(model_id, 1)
    body["forward_backward_input"]["data"][0]["model_input"]["chunks"][0]["type"] = "song"
    refused = api.send("forward_backward", **body)
    assert refused.status_code == 400
    assert "a chunk of the type 'song' is not known here" in refused.json()["detail"]
    assert "error" not in api.result(api.step(model_id, 2, 1))
