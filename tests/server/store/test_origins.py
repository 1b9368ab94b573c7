"""The loads of other runs' checkpoints, and the steps of a training that several runs continue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from tests.server.store.test_migrations import add_run
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.store import Batch, OriginRow, RunPart, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        for name in ("a", "b", "c"):
            add_run(store, name)
        yield store


def load(model_id: str, after_step: int, source: str, step: int | None = 1) -> OriginRow:
    return OriginRow(model_id, after_step, CheckpointPath(source, "weights", "one"), step)


def take_steps(store: Store, model_id: str, count: int, **metrics: float) -> None:
    for _ in range(count):
        store.steps.add_batch(model_id, Batch(loss=1.0, tokens=1, metrics=metrics), 1.0)
        store.steps.end(model_id)


def test_of_several_loads_between_two_steps_the_last_one_counts(store: Store) -> None:
    for row in (load("c", 0, "a"), load("c", 0, "b", None), load("c", 3, "a")):
        store.origins.put(row)
    assert store.origins.of_run("c", 9) == [load("c", 0, "b", None), load("c", 3, "a")]
    assert store.origins.first("c") == load("c", 0, "b", None)
    assert store.origins.continuing("a", None, 9) == []


def test_of_many_loads_the_first_and_the_last_are_returned(store: Store) -> None:
    for after_step in range(10):
        store.origins.put(load("c", after_step, "a"))
    assert [row.after_step for row in store.origins.of_run("c", 3)] == [0, 8, 9]


def test_the_runs_that_continue_one_are_counted_and_the_newest_come_first(store: Store) -> None:
    for name in ("b", "c"):
        store.origins.put(load(name, 0, "a"))
    assert [row.model_id for row in store.origins.continuing("a", None, 9)] == ["c", "b"]
    assert [row.model_id for row in store.origins.continuing("a", "", 1)] == ["c"]
    assert store.origins.continuing("a", "another", 9) == []
    assert [store.origins.count_continuing("a", owner) for owner in (None, "another")] == [2, 0]


def test_an_open_step_is_not_counted_as_taken(store: Store) -> None:
    assert store.steps.count_ended("a") == 0
    take_steps(store, "a", 2)
    store.steps.add_batch("a", Batch(loss=1.0, tokens=1), 1.0)
    assert (store.steps.count_ended("a"), store.steps.count("a")) == (2, 3)


def test_steps_of_several_runs_count_from_the_first_one(store: Store) -> None:
    take_steps(store, "a", 5, of=1.0)
    take_steps(store, "b", 2, of=2.0)
    take_steps(store, "c", 2, of=3.0)
    parts = [RunPart("a", 3), RunPart("b", 1, 3), RunPart("c", 2, 4)]
    rows = store.steps.fullest(parts, 100)
    expected = [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 3.0), (6, 3.0)]
    assert [(row.number, row.metrics["of"]) for row in rows] == expected


def test_of_a_long_training_the_last_run_keeps_its_first_and_newest_step(store: Store) -> None:
    take_steps(store, "a", 400)
    take_steps(store, "b", 30)
    parts = [RunPart("a", 350), RunPart("b", 30, 350)]
    numbers = [row.number for row in store.steps.fullest(parts, 20)]
    assert len(numbers) < 26
    assert {1, 350, 351, 380} <= set(numbers)
    assert numbers == sorted(set(numbers))
    assert max(after - before for before, after in pairwise(numbers)) < 39
