"""The metrics that the server keeps for each step of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import started
from tinkex_server.engine.interface import LoraShape
from tinkex_server.store import Batch, ModelRow, RunPart, SessionRow, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        store.sessions.add(SessionRow("s", [], {}, "1", None, None, 0.0))
        store.models.add(ModelRow("a", "s", "base", LoraShape(4), "adamw", {}, "ready", 0.0, 0.0))
        yield store


def add(store: Store, metrics: Mapping[str, float], tokens: int = 1, seconds: float = 0.0) -> None:
    batch = Batch(loss=1.0, tokens=1, computed_tokens=tokens, seconds=seconds, metrics=metrics)
    store.steps.add_batch("a", batch, 1.0)


def newest(store: Store) -> Mapping[str, float | None]:
    return store.steps.curve("a", 10)[-1].metrics


def test_sums_are_added_and_other_values_are_averaged_over_the_batches_of_a_step(
    store: Store,
) -> None:
    for tokens, entropy in ((10.0, 1.0), (20.0, 2.0), (30.0, 6.0)):
        add(store, {"tokens:sum": tokens, "custom/entropy:mean": entropy})
    store.steps.end("a", {"grad_norm": 0.5})
    expected = {"tokens:sum": 60.0, "custom/entropy:mean": 3.0, "grad_norm": 0.5}
    assert newest(store) == pytest.approx(expected)
    add(store, {"tokens:sum": 1.0})  # of the next step
    assert newest(store) == {"tokens:sum": 1.0}


def test_a_value_that_is_not_a_number_stays_one(store: Store) -> None:
    for value in (1.0, math.nan, 2.0):
        add(store, {"custom/x:mean": value})
    assert newest(store) == {"custom/x:mean": None}


def test_the_rate_counts_the_time_of_the_optimizer_too(store: Store) -> None:
    add(store, {}, tokens=60, seconds=2.0)
    add(store, {}, tokens=40, seconds=2.0)
    store.steps.end("a", {}, seconds=1.0)
    assert store.steps.curve("a", 10)[-1].tokens_per_second == pytest.approx(20.0)


def test_values_of_the_client_belong_to_the_step_that_it_names(store: Store) -> None:
    assert store.steps.note("a", None, {"reward": 0.1}, 1.0) is None
    for _ in range(2):
        add(store, {})
        store.steps.end("a")
    assert store.steps.note("a", 1, {"reward": 0.1}, 1.0) == 1
    assert store.steps.note("a", None, {"reward": 0.2}, 1.0) == 2
    assert store.steps.note("a", 4, {"reward": 0.3}, 1.0) is None
    assert [row.metrics for row in store.steps.after("a", 0, 9)] == [
        {"reward": 0.1},
        {"reward": 0.2},
    ]


def test_values_for_the_step_after_the_newest_make_one_that_trains_nothing(store: Store) -> None:
    assert store.steps.note("a", 2, {"reward": 0.0}, 1.0) is None
    assert store.steps.note("a", 1, {"reward": 0.0}, 1.0) == 1
    add(store, {})
    assert store.steps.note("a", 3, {"reward": 0.5}, 1.0) is None  # step 2 is open
    assert store.steps.note("a", 2, {"reward": 0.4}, 1.0) == 2
    store.steps.end("a")
    assert store.steps.note("a", 3, {"reward": 1.0}, 5.0) == 3
    add(store, {})
    store.steps.end("a")
    seen = [(row.number, row.trained, row.metrics) for row in store.steps.after("a", 0, 9)]
    assert seen == [
        (1, False, {"reward": 0.0}),
        (2, True, {"reward": 0.4}),
        (3, False, {"reward": 1.0}),
        (4, True, {}),
    ]
    assert [row.losses for row in store.steps.after("a", 2, 1)] == [{}]


def test_values_of_a_few_steps_are_in_the_curve_of_a_long_run(store: Store) -> None:
    for number in range(1, 401):
        add(store, {"grad_norm": 1.0})
        store.steps.end("a", {"eval_loss": 2.0} if number % 80 == 0 else {})
    chosen = store.steps.fullest([RunPart("a", 400)], 50)
    assert len(chosen) < 60
    assert {80, 160, 240, 320, 400} <= {row.number for row in chosen}
    assert (chosen[0].number, chosen[-1].number) == (1, 400)
    assert [row.number for row in store.steps.fullest([RunPart("a", 400)], 500)] == [*range(1, 401)]


def test_a_step_has_a_bounded_number_of_metrics(store: Store) -> None:
    add(store, {f"custom/{number}:sum": 1.0 for number in range(100)})
    assert len(newest(store)) == 64


def test_old_steps_are_dropped_and_new_ones_keep_their_numbers(store: Store) -> None:
    for _ in range(10):
        add(store, {})
        store.steps.end("a")
    assert store.steps.drop(0.0, 3, 100) == 7
    add(store, {})
    assert [row.number for row in store.steps.after("a", 0, 99)] == [8, 9, 10]
    assert store.steps.count("a") == 11


def test_what_the_engine_computes_is_kept(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model()
        api.step(model_id, 1, 2, 3)
        optim = {"model_id": model_id, "seq_id": 2, "adam_params": {"learning_rate": 0.25}}
        api.result(api.ok("optim_step", **optim))
    with closing(Store(tmp_path / "tinkex.db")) as store:
        [row] = store.steps.curve(model_id, 10)
    assert row.metrics == {"learning_rate": 0.25}
    assert row.tokens_per_second is not None
    assert row.tokens_per_second > 0
