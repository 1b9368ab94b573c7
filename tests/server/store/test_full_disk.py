"""A data folder that cannot be written: the server says so, and acknowledges nothing that it did
not store.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, sample, started
from tinkex.cli import main
from tinkex.local import serve
from tinkex_server.store import SamplerRow, SessionRow, Store, StoreWriteError
from tinkex_server.store.database import Database


def fill(database: Database) -> None:
    """Keeps the file from growing, as if the disk were full."""
    [pages] = database._connection.execute("PRAGMA page_count").fetchone()
    database._connection.execute(f"PRAGMA max_page_count = {pages}")


def empty(database: Database) -> None:
    database._connection.execute("PRAGMA max_page_count = 1000000000")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        yield store


def session(name: str) -> SessionRow:
    return SessionRow(name, ["x" * 5000], {}, "1", None, None, 0.0)


def test_requests_are_refused_while_the_disk_is_full(store: Store) -> None:
    fill(store._database)
    with pytest.raises(StoreWriteError, match=r"full.*make room on its disk$"):
        store.sessions.add(session("at once"))
    with pytest.raises(StoreWriteError), store._database.transaction():
        store.sessions.add(session("in a transaction"))
    empty(store._database)
    store.sessions.add(session("later"))
    store.samplers.add(
        SamplerRow("a", "later", "base", None, "folder", "m"), 0.0
    )  # a transaction, which the failed one left room for
    assert store.sessions.get("in a transaction") is None


def test_once_an_announced_result_is_lost_all_requests_are_refused(
    store: Store,
) -> None:
    async def write() -> None:
        store.usage.add("", "s", "base", {"training": 1}, 0.0)
        await store.flush()

    async def lose() -> None:
        store.usage.add("", "s", "base", {"training": 1}, 0.0)
        # as SQLite itself does when the disk is full
        store._database._connection.execute("ROLLBACK")
        await store.flush()

    asyncio.run(write())
    for again in (lose, write):
        with pytest.raises(StoreWriteError, match="restart the server"):
            asyncio.run(again())


@pytest.mark.parametrize(
    ("table", "write"),
    [("steps", "add_batch"), ("steps", "end"), ("audit", "add"), ("origins", "put")],
)
def test_work_that_is_done_does_not_fail_with_its_records(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    table: str,
    write: str,
) -> None:
    """Or the client would do it again: the disk may have room again when the outcome is stored."""

    def fail(*_: object) -> None:
        raise StoreWriteError(sqlite3.OperationalError("database or disk is full"))

    with (
        serve(engine=RecordingEngine(), data_dir=tmp_path) as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        api = Api(http, RecordingEngine())
        session_id = api.session()
        monkeypatch.setattr(getattr(server._state.store, table), write, fail)
        model_id = api.model(session_id)
        promises = [
            api.step(model_id, 1),
            api.ok("optim_step", model_id=model_id, seq_id=2, adam_params={}),
            api.ok("save_weights", model_id=model_id, seq_id=3, path="one"),
        ]
        results = [api.result(promise) for promise in promises]
        path = f"tinker://{model_id}/weights/one"
        fresh = {"session_id": session_id, "model_seq_id": 8}
        loads = [
            api.ok("load_weights", **into, path=path, optimizer=True)
            for into in ({"model_id": api.model(session_id, 7), "seq_id": 1}, fresh)
        ]
        results += [api.result(promise) for promise in loads]
    assert [result.get("error") for result in results] == [None] * 5
    assert "missing from the records" in caplog.text


def test_a_server_on_a_full_disk_says_what_to_do() -> None:
    with (
        serve(engine=RecordingEngine()) as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        api = Api(http, RecordingEngine())
        sampler = api.sampler()
        fill(server._state.store._database)
        refused = api.send("create_session", tags=["x" * 50_000], user_metadata={}, sdk_version="1")
        assert (refused.status_code, "make room on its disk" in refused.json()["detail"]) == (
            507,
            True,
        )
        sent = (api.send("asample", **sample(sampler, number)) for number in range(500))
        stopped = next(response for response in sent if response.status_code != 200)
        assert (stopped.status_code, "restart the server" in stopped.json()["detail"]) == (
            507,
            True,
        )
        assert api.get("sessions").status_code == 507, (
            "what it would say may not be so after the restart"
        )


@pytest.mark.parametrize("how", ["--gc", "--engine=fake"])
def test_the_command_reports_a_full_disk_in_one_line(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        api.step(api.model(), 2)  # it waits for another, so that a restart has something to write
    original = Database._prepare

    def on_a_full_disk(self: Database, file: Path) -> None:
        original(self, file)
        self._connection.execute("PRAGMA query_only = ON")  # which cannot be written to either

    monkeypatch.setattr(Database, "_prepare", on_a_full_disk)
    result = CliRunner().invoke(main, ["serve", "--port", "0", "--data-dir", str(tmp_path), how])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert (
        "cannot be written (attempt to write a readonly database); make room on its disk"
        in result.output
    )
