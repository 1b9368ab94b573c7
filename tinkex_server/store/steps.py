"""The losses of training runs, step by step, for the curves of the status page."""

from __future__ import annotations

from collections.abc import Sequence

from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import StepRow


class Steps:
    """The table of training steps. A step is all that lies between two `optim_step`s, so a batch
    that was sent in several requests is one point of the curve.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def add_loss(self, model_id: str, loss: float, tokens: int, now: float) -> None:
        """Adds the loss of a forward_backward, summed over `tokens` tokens, to the model's open
        step.

        A step with a NaN stays NaN: SQLite stores it as NULL, as it does every sum with it.
        """
        self._db.run(
            "INSERT INTO steps (model_id, number, loss, tokens, at) VALUES (?1,"
            " (SELECT coalesce(max(number + ended), 1) FROM steps WHERE model_id = ?1), ?2, ?3, ?4)"
            " ON CONFLICT (model_id, number)"
            " DO UPDATE SET loss = loss + ?2, tokens = tokens + ?3, at = ?4",
            model_id,
            loss,
            tokens,
            now,
        )

    def end(self, model_id: str) -> None:
        """Ends the open step: losses that are added later belong to the next one."""
        self._db.run("UPDATE steps SET ended = 1 WHERE model_id = ? AND ended = 0", model_id)

    def count(self, model_id: str) -> int:
        return self._db.number(
            "SELECT coalesce(max(number), 0) FROM steps WHERE model_id = ?", model_id
        )

    def after(self, model_id: str, number: int, most: int) -> Sequence[StepRow]:
        """Returns the next steps after the one of this number, in order. The open step is not one
        of them.
        """
        sql = (
            "SELECT number, loss / tokens, at FROM steps"
            " WHERE model_id = ? AND number > ? AND ended = 1 ORDER BY number LIMIT ?"
        )
        return self._db.all(lambda row: StepRow(*row), sql, model_id, number, most)

    def curve(self, model_id: str, most: int) -> Sequence[StepRow]:
        """Returns about `most` steps, evenly spread and in order, with the first and the newest."""
        last = self.count(model_id)
        apart = max(1, last // most)
        numbers = [1, *range(apart, last + 1, apart), last]
        sql = (
            "SELECT number, loss / tokens, at FROM steps"
            " WHERE model_id = ? AND number IN (SELECT value FROM json_each(?)) ORDER BY number"
        )
        return self._db.all(lambda row: StepRow(*row), sql, model_id, dump(numbers))
