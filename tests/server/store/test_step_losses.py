"""The losses that the server keeps for the curves of its status page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, started, step
from tinkex_server.engine.interface import LoraShape
from tinkex_server.store import Batch, ModelRow, SessionRow, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        store.sessions.add(SessionRow("s", [], {}, "1", None, None, 0.0))
        for name in ("a", "b"):
            store.models.add(
                ModelRow(name, "s", "base", LoraShape(4), "adamw", {}, "ready", 0.0, 0.0)
            )
        yield store


def add(store: Store, model_id: str, loss: float, tokens: int, now: float) -> None:
    store.steps.add_batch(model_id, Batch(loss=loss, tokens=tokens), now)


def test_all_batches_before_an_optim_step_are_one_point(store: Store) -> None:
    add(store, "a", 6.0, 3, 1.0)
    add(store, "a", 2.0, 1, 2.0)
    store.steps.end("a")
    store.steps.end("a")  # a step without a loss is no point
    add(store, "a", 5.0, 5, 3.0)
    add(store, "b", 1.0, 1, 4.0)
    assert [(row.number, row.loss, row.at) for row in store.steps.curve("a", 10)] == [
        (1, 2.0, 2.0),
        (2, 1.0, 3.0),
    ]
    assert store.steps.count("b") == 1


def test_a_loss_that_is_not_a_number_is_a_gap_of_one_step(store: Store) -> None:
    add(store, "a", math.nan, 3, 1.0)
    add(store, "a", 1.0, 1, 1.0)
    store.steps.end("a")
    add(store, "a", 1.0, 1, 2.0)
    assert [row.loss for row in store.steps.curve("a", 10)] == [None, 1.0]


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
def test_a_long_curve_is_thinned_and_keeps_its_ends(store: Store, steps: int) -> None:
    for number in range(steps):
        add(store, "a", float(number), 1, 0.0)
        store.steps.end("a")
    rows = store.steps.curve("a", 50)
    assert len(rows) <= 2 * 50 + 2
    assert (rows[0].number, rows[-1].number) == (1, steps)


def test_training_writes_the_loss_per_trained_token(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model()
        _train(api, model_id, 1, 2, 3)
        _train(api, model_id, 3, 10, 20)
        api.result(api.step(model_id, 5, 7, path="forward"))  # trains nothing
        masked = step(model_id, 6, 4, 4)
        masked["forward_backward_input"]["data"][0]["loss_fn_inputs"]["weights"]["data"] = [
            0.0,
            1.0,
        ]
        api.result(api.ok("forward_backward", **masked))
    with closing(Store(tmp_path / "tinkex.db")) as store:
        assert [row.loss for row in store.steps.curve(model_id, 10)] == [2.5, 15.0, 8.0]


def _train(api: Api, model_id: str, seq_id: int, *tokens: int) -> None:
    api.step(model_id, seq_id, *tokens)
    api.result(
        api.ok(
            "optim_step", model_id=model_id, seq_id=seq_id + 1, adam_params={"learning_rate": 1.0}
        )
    )
