"""Custom losses that clients have sent."""

from __future__ import annotations

import sqlite3

import orjson

from tinkex_server.engine.interface import CustomLoss
from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import CustomLossRow


class CustomLosses:
    """The table of custom losses."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, row: CustomLossRow, now: float) -> None:
        self._db.run(
            "INSERT INTO custom_losses VALUES (?, ?, ?, ?, ?, ?)",
            row.loss_id,
            row.session_id,
            row.name,
            dump(row.loss.inputs),
            dump(row.loss.nodes),
            now,
        )

    def get(self, loss_id: str) -> CustomLossRow | None:
        return self._db.one(_row, "SELECT * FROM custom_losses WHERE loss_id = ?", loss_id)


def _row(row: sqlite3.Row) -> CustomLossRow:
    inputs = [(name, rank) for name, rank in orjson.loads(row["inputs"])]
    return CustomLossRow(
        row["loss_id"],
        row["session_id"],
        row["name"],
        CustomLoss(inputs, orjson.loads(row["nodes"])),
    )
