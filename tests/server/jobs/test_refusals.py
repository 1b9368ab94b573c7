"""The refusals that the server keeps for its status page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.server_calls import Api, step
from tinkex.local import Server
from tinkex_server.access.ownership import Access
from tinkex_server.jobs.refusals import Refusals
from tinkex_server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        yield store


def test_repeats_are_counted_and_the_newest_comes_first(store: Store) -> None:
    refusals = Refusals()
    for at, reason in enumerate(("a", "b", "a")):
        refusals.add("", "run", "optim_step", reason, float(at))
    newest = refusals.newest(Access(store, None))
    assert [(row.reason, row.count, row.at) for row in newest] == [("a", 2, 2.0), ("b", 1, 1.0)]


def test_they_are_bounded_in_number_and_length(store: Store) -> None:
    refusals = Refusals()
    for number in range(500):
        refusals.add("", "run", "optim_step", f"{number}{'x' * 10_000}", 0.0)
    newest = refusals.newest(Access(store, None))
    assert len(newest) == 200
    assert newest[0].reason.startswith("499x")
    assert all(len(row.reason) == 2000 for row in newest)


def test_each_owner_sees_its_own(store: Store) -> None:
    refusals = Refusals()
    refusals.add("1", "run", "optim_step", "a", 0.0)
    refusals.add("2", "other", "optim_step", "b", 0.0)
    assert [row.reason for row in refusals.newest(Access(store, "1"))] == ["a"]
    assert [row.reason for row in refusals.newest(Access(store, None), "other")] == ["b"]


def test_a_refused_request_is_kept_with_its_model_and_the_field(api: Api, server: Server) -> None:
    model_id = api.model()
    body = step(model_id, 1)
    body["forward_backward_input"]["loss_fn"] = "no_such_loss"
    assert api.send("forward_backward", **body).status_code == 400
    optim = {"model_id": model_id, "seq_id": 2, "adam_params": {"learning_rate": "fast"}}
    assert api.send("optim_step", **optim).status_code == 422
    assert api.get(f"training_runs/{model_id}x").status_code == 404  # somebody looked, no more
    state = server._state  # pyright: ignore[reportPrivateUsage]
    second, first = state.refusals.newest(Access(state.store, None), model_id)
    assert (first.operation, second.operation) == ("forward_backward", "optim_step")
    assert first.reason.startswith("unknown loss_fn 'no_such_loss'")
    assert second.reason.startswith("adam_params.learning_rate ")
