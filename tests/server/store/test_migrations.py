"""Data folders of earlier releases, which later ones go on with."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.engine.interface import LoraShape
from tinkex_server.store import (
    Batch,
    CheckpointRow,
    ModelRow,
    OriginRow,
    SessionRow,
    Store,
)

_UNDONE = {
    6: ["DROP TABLE origins", "ALTER TABLE checkpoints DROP COLUMN step"],
    5: [
        *(
            f"ALTER TABLE steps DROP COLUMN {column}"
            for column in ("batches", "computed_tokens", "seconds", "metrics")
        ),
        "DROP INDEX failed_futures",
    ],
}
"""The statements that take back a layout of the database."""


@contextmanager
def of_layout(file: Path, layout: int) -> Generator[Store]:
    """Yields a store, and leaves its file in an older layout."""
    with closing(Store(file)) as store:
        yield store
    with closing(sqlite3.connect(file)) as old:
        for newer in sorted(_UNDONE, reverse=True):
            for statement in _UNDONE[newer] if newer > layout else []:
                old.execute(statement)
        old.execute(f"PRAGMA user_version = {layout}")
        old.commit()


def add_run(store: Store, model_id: str) -> None:
    store.sessions.add(SessionRow(f"s-{model_id}", [], {}, "1", None, None, 0.0))
    store.models.add(
        ModelRow(model_id, f"s-{model_id}", "base", LoraShape(4), "adamw", {}, "ready", 0.0, 0.0)
    )


def take_step(store: Store, model_id: str, at: float) -> None:
    store.steps.add_batch(model_id, Batch(loss=1.0, tokens=1), at)
    store.steps.end(model_id)


def test_steps_of_layout_4_have_no_metrics(tmp_path: Path) -> None:
    with of_layout(tmp_path / "tinkex.db", 4) as store:
        add_run(store, "a")
        take_step(store, "a", 1.0)
    with closing(Store(tmp_path / "tinkex.db")) as store:
        [row] = store.steps.after("a", 0, 9)
        assert (row.loss, row.metrics, row.tokens_per_second) == (1.0, {}, None)
        store.steps.add_batch("a", Batch(loss=1.0, tokens=1, metrics={"tokens:sum": 3.0}), 2.0)
        assert store.steps.curve("a", 9)[-1].metrics == {"tokens:sum": 3.0}


@pytest.mark.parametrize("layout", [4, 5])
def test_checkpoints_of_layout_5_get_their_step_by_the_time_of_the_save(
    tmp_path: Path, layout: int
) -> None:
    times = {"early": 0.5, "between": 2.5, "last": 3.5}
    with of_layout(tmp_path / "tinkex.db", layout) as store:
        add_run(store, "a")
        add_run(store, "b")
        for at in (1.0, 2.0, 3.0):
            take_step(store, "a", at)
        store.steps.add_batch("a", Batch(loss=1.0, tokens=1), 3.25)  # of an open step
        for name, at in times.items():
            path = CheckpointPath("a", "weights", name)
            store.checkpoints.put(CheckpointRow(path, f"f-{name}", 1, at, None, step=77))
    with closing(Store(tmp_path / "tinkex.db")) as store:
        found = {row.path.name: row.step for row in store.checkpoints.of_run("a")}
        assert found == {"early": None, "between": 2, "last": 3}
        loaded = CheckpointPath("a", "weights", "last")
        store.origins.put(OriginRow("b", 0, loaded, 3))
        assert store.origins.first("b") == OriginRow("b", 0, loaded, 3)
