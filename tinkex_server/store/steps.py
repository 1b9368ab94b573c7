"""The metrics of training runs, step by step, for the curves of the status page."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence

import orjson
from attrs import frozen

from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import Batch, RunPart, StepRow

_MOST_METRICS = 64
"""The most metrics of one step; further names are dropped."""
_VALUES = (
    "tokens > 0 AS trained, loss / tokens AS loss, at,"
    " computed_tokens / nullif(seconds, 0) AS rate, metrics"
)
_STEPS = f"SELECT number, {_VALUES} FROM steps"
_FULLEST = f"""
WITH parts AS MATERIALIZED (
    SELECT json_extract(value, '$[0]') AS model_id, json_extract(value, '$[1]') AS most,
        json_extract(value, '$[2]') AS before
    FROM json_each(?1)
), chosen AS (
    SELECT steps.rowid AS id, number + before AS place, row_number() OVER (
        PARTITION BY (number + before) / ?2
        ORDER BY (SELECT count(*) FROM json_each(metrics)) DESC, number + before
    ) AS nth
    FROM parts JOIN steps USING (model_id) WHERE number <= most
)
SELECT place AS number, {_VALUES} FROM chosen JOIN steps ON steps.rowid = id
WHERE nth = 1 OR place IN (SELECT value FROM json_each(?3)) ORDER BY place
"""


class Steps:
    """The table of training steps. A step is all that lies between two `optim_step`s, so a batch
    that was sent in several requests is one point of the curve.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def add_batch(self, model_id: str, batch: Batch, now: float) -> None:
        """Adds a forward_backward to the model's open step.

        A step with a NaN stays NaN: SQLite stores it as NULL, as it does every sum with it.
        """
        step = self._open_step(model_id)
        self._db.run(
            "INSERT INTO steps"
            " (model_id, number, loss, tokens, at, batches, computed_tokens, seconds, metrics)"
            " VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8)"
            " ON CONFLICT (model_id, number)"
            " DO UPDATE SET loss = loss + ?3, tokens = tokens + ?4, at = ?5, batches = batches + 1,"
            " computed_tokens = computed_tokens + ?6, seconds = seconds + ?7, metrics = ?8",
            model_id,
            step.number,
            batch.loss,
            batch.tokens,
            now,
            batch.computed_tokens,
            batch.seconds,
            dump(_combined(step, batch.metrics)),
        )

    def end(
        self, model_id: str, metrics: Mapping[str, float] | None = None, seconds: float = 0.0
    ) -> None:
        """Ends the open step: batches that are added later belong to the next one.

        Args:
            model_id: the id of the training run.
            metrics: the values of the optim_step.
            seconds: the time that the engine took for it.
        """
        last = self._last(model_id)
        if last is None or last.ended:
            return
        self._db.run(
            "UPDATE steps SET ended = 1, metrics = ?, seconds = seconds + ?"
            " WHERE model_id = ? AND number = ?",
            dump(_limited({**last.metrics, **(metrics or {})})),
            seconds,
            model_id,
            last.number,
        )

    def note(
        self, model_id: str, number: int | None, metrics: Mapping[str, float], now: float
    ) -> int | None:
        """Adds values that the client has computed to a step, the newest if `number` is None.
        Returns the number of the step, or None if there is none.

        The number after the newest makes a step that trains nothing, unless a step is open: a
        program of reinforcement learning may sample and find nothing to learn from.
        """
        opening = self._open_step(model_id)
        if number == opening.number and not opening.batches:
            self._db.run(
                "INSERT INTO steps (model_id, number, loss, tokens, at, batches, ended, metrics)"
                " VALUES (?, ?, 0, 0, ?, 0, 1, ?)",
                model_id,
                number,
                now,
                dump(_limited(metrics)),
            )
            return number
        sql = "SELECT number, metrics FROM steps WHERE model_id = ?1 AND number = coalesce(?2, ?3)"
        found = self._db.one(tuple, sql, model_id, number, self.count(model_id))
        if found is None:
            return None
        step, known = found
        self._db.run(
            "UPDATE steps SET metrics = ? WHERE model_id = ? AND number = ?",
            dump(_limited({**orjson.loads(known), **metrics})),
            model_id,
            step,
        )
        return step

    def count(self, model_id: str) -> int:
        return self._db.number(
            "SELECT coalesce(max(number), 0) FROM steps WHERE model_id = ?", model_id
        )

    def count_ended(self, model_id: str) -> int:
        """Returns the number of steps without the open one."""
        return self._db.number(
            "SELECT coalesce(max(number), 0) FROM steps WHERE model_id = ? AND ended = 1", model_id
        )

    def after(self, model_id: str, number: int, most: int) -> Sequence[StepRow]:
        """Returns the next steps after the one of this number, in order. The open step is not one
        of them.
        """
        sql = f"{_STEPS} WHERE model_id = ? AND number > ? AND ended = 1 ORDER BY number LIMIT ?"
        return self._db.all(_row, sql, model_id, number, most)

    def curve(self, model_id: str, most: int) -> Sequence[StepRow]:
        """Returns about `most` steps, evenly spread and in order, with the first and the newest."""
        last = self.count(model_id)
        apart = max(1, last // most)
        sql = (
            f"{_STEPS} WHERE model_id = ? AND number IN (SELECT value FROM json_each(?))"
            " ORDER BY number"
        )
        return self._db.all(_row, sql, model_id, dump([1, *range(apart, last + 1, apart), last]))

    def fullest(self, parts: Sequence[RunPart], most: int) -> Sequence[StepRow]:
        """Returns about `most` steps of a training, evenly spread and in order, with the first and
        the newest of all and of the last run. Their numbers count from the training's first step.

        Of steps near each other it returns the one with the most metrics: so that values of a few
        steps, such as evaluations, are among them. It reads all steps.
        """
        newest = parts[-1]
        apart = max(1, newest.last // most)
        ends = [1, newest.before, newest.before + 1, newest.last]
        lists = [(part.model_id, part.steps, part.before) for part in parts]
        return self._db.all(_row, _FULLEST, dump(lists), apart, dump(ends))

    def drop(self, before: float, keep: int, most: int) -> int:
        """Deletes steps that ended before `before`, or are not among the newest `keep` of all runs,
        but no more than `most`. Returns how many it deleted.
        """
        return self._db.drop_oldest("steps", "at", before, keep, most)

    def _open_step(self, model_id: str) -> _LastStep:
        """Returns the step to which batches are added, which may have none yet."""
        last = self._last(model_id)
        if last is None or last.ended:
            return _LastStep(last.number + 1 if last else 1, False, 0, {})
        return last

    def _last(self, model_id: str) -> _LastStep | None:
        sql = (
            "SELECT number, ended, batches, metrics FROM steps WHERE model_id = ?"
            " ORDER BY number DESC LIMIT 1"
        )
        return self._db.one(
            lambda row: _LastStep(row[0], bool(row[1]), row[2], orjson.loads(row[3])), sql, model_id
        )


@frozen
class _LastStep:
    """The newest step of a run, open or not."""

    number: int
    ended: bool
    batches: int
    metrics: Mapping[str, float | None]


def _combined(step: _LastStep, new: Mapping[str, float]) -> Mapping[str, float | None]:
    """Returns the values of a step with those of one more batch."""
    combined = dict(step.metrics)
    for name, value in new.items():
        before = combined.get(name, 0.0 if name.endswith(":sum") else value)
        if before is None or not math.isfinite(value):
            combined[name] = None
        elif name.endswith(":sum"):
            combined[name] = before + value
        else:
            combined[name] = before + (value - before) / (step.batches + 1)
    return _limited(combined)


def _limited(metrics: Mapping[str, float | None]) -> Mapping[str, float | None]:
    return dict(list(metrics.items())[:_MOST_METRICS])


def _row(row: sqlite3.Row) -> StepRow:
    return StepRow(
        row["number"],
        row["loss"],
        row["at"],
        row["rate"],
        orjson.loads(row["metrics"]),
        bool(row["trained"]),
    )
