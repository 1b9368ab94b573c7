"""Expired results, records and sessions are removed. Tests give the time to `sweep`, and do not
wait.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from attrs import define
from click.testing import CliRunner

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, new_model, sample, saved_folder, started, step
from tests.support.wait_until import wait_until
from tinkex.cli import main
from tinkex.local import Limits, Server, gc, serve
from tinkex_server.app import expiry
from tinkex_server.engine.interface import LoraShape, OptimizerKind
from tinkex_server.state import CommonState
from tinkex_server.store import Ending, FutureRow, SessionRow, Store, StoreError

DAY = 24 * 3600.0


@pytest.fixture
def own() -> Iterator[Server]:
    """A server for one test, since it is swept as if days had passed."""
    with serve(engine=RecordingEngine()) as server:
        yield server


@pytest.fixture
def api(own: Server) -> Iterator[Api]:
    engine = own._state.engine
    assert isinstance(engine, RecordingEngine)
    with httpx.Client(base_url=own.base_url, timeout=15) as http:
        yield Api(http, engine)


def folders(server: Server) -> set[str]:
    return {
        path.name.rpartition(".")[0]
        for place in ("checkpoints/*/*/*", "samplers/*")
        for path in server.data_dir.glob(place)
    }


def test_a_result_is_410_after_its_time_and_404_after_that(api: Api, own: Server) -> None:
    model_id = api.model()
    promise = api.step(model_id, 1)
    result = api.result(promise)
    own.sweep(time.time() + 0.9 * DAY)
    assert api.result(promise) == result
    own.sweep(time.time() + 1.1 * DAY)
    response = api.send("retrieve_future", request_id=promise["request_id"])
    assert (response.status_code, "expired" in response.json()["detail"]) == (410, True)
    assert api.step(model_id, 1) == promise, "it is still known what was asked"
    own.sweep(time.time() + 8 * DAY)
    assert api.send("retrieve_future", request_id=promise["request_id"]).status_code == 404


def test_a_request_that_is_not_done_does_not_expire(api: Api, own: Server) -> None:
    promise = api.step(api.model(), 2)
    own.sweep(time.time() + 0.004 * DAY)
    assert (
        api.http.post(
            "/api/v1/cancel_future", json={"request_id": promise["request_id"]}
        ).status_code
        == 200
    )


def test_many_results_expire_in_one_sweep(
    api: Api, own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = api.sampler()
    promises = [api.ok("asample", **sample(sampler, number)) for number in range(30)]
    for promise in promises:
        api.result(promise)
    monkeypatch.setattr(expiry, "_ROWS_AT_ONCE", 7)
    own.sweep(time.time() + 2 * DAY)
    assert {
        api.send("retrieve_future", request_id=promise["request_id"]).status_code
        for promise in promises
    } == {410}


def test_the_oldest_results_beyond_the_limit_are_deleted(tmp_path: Path) -> None:
    """Each result has 10 bytes and the last one 25. There is room for 50, also after a restart."""

    async def end(store: Store, number: int, size: int) -> None:
        store.futures.add(
            FutureRow(f"r{number}", "s", number, "sample", "", owner=""), float(number)
        )
        store.futures.end(f"r{number}", Ending("done", b"x" * size), float(number), float(number))
        await store.flush()

    def expired(store: Store) -> list[int]:
        while expiry.expire(store, Limits(result_bytes=50), 10.0):
            pass
        return [
            number
            for number in range(9)
            if (row := store.futures.get(f"r{number}")) and row.state == "expired"
        ]

    with closing(Store(tmp_path / "tinkex.db")) as store:
        for number in range(8):
            asyncio.run(end(store, number, 10))
        assert expired(store) == [0, 1, 2]
    with closing(Store(tmp_path / "tinkex.db")) as store:
        asyncio.run(end(store, 8, 25))
        assert expired(store) == [0, 1, 2, 3, 4, 5]


def test_records_are_deleted_after_400_days(api: Api, own: Server) -> None:
    model_id = api.model()
    api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="a"))
    api.result(api.step(model_id, 2))
    assert (
        api.http.delete(f"/api/v1/training_runs/{model_id}/checkpoints/weights/a").status_code
        == 200
    )
    own.sweep(time.time() + 399 * DAY)
    assert records(own) == (5, 3)
    own.sweep(time.time() + 401 * DAY)
    assert records(own) == (1, 0), (
        "that the session lost its client, which was seen by the first sweep"
    )
    assert api.get("audit", event_type="all").json() == {"entries": []}


def records(server: Server) -> tuple[int, int]:
    """Returns the numbers of audit entries and of usage records."""
    return server._state.store.audit.count(), server._state.store.usage.count()


def test_the_number_of_records_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_ROWS_AT_ONCE", 7)
    with closing(Store(tmp_path / "tinkex.db")) as store:
        store.sessions.add(SessionRow("s", [], {}, "1", None, None, 0.0))
        for number in range(50):
            store.audit.add("", "model.created", {"number": number}, float(number))
    with closing(Store(tmp_path / "tinkex.db")) as store:
        while expiry.expire(store, Limits(records=20), 50.0):
            pass
        left = store.audit.between(None, None, 0.0, 100.0)
    assert [entry.details["number"] for entry in left] == list(range(30, 50))


def test_an_hour_of_usage_is_deleted_as_a_whole(tmp_path: Path) -> None:
    """Two models were used in each of five hours."""

    async def used(store: Store) -> list[float]:
        for hour in range(5):
            for model in ("a", "b"):
                store.usage.add("", "s", model, {"training": 1}, hour * 3600.0)
        await store.flush()
        expiry.expire(store, Limits(records=5), 5 * 3600.0)
        return [row.hour / 3600 for row in store.usage.between(None, 0.0, 1e6)]

    with closing(Store(tmp_path / "tinkex.db")) as store:
        assert asyncio.run(used(store)) == [3, 3, 4, 4], (
            "of the third hour one entry is too old, so both go"
        )


def test_checkpoints_that_were_deleted_are_known_for_so_long(api: Api, own: Server) -> None:
    model_id = api.model()
    for number in range(1, 4):
        api.result(
            api.ok("save_weights", model_id=model_id, seq_id=number, path="a", overwrite=True)
        )
    usage = own._state.store.usage
    now = time.time()
    spans = usage.stored(None, now - 60, now + 60)
    assert (len(spans), usage.drop_stored(0.0, 1, 1000)) == (3, 1)
    assert len(usage.stored(None, now - 60, now + 60)) == 2


def test_a_checkpoint_is_deleted_after_its_time_to_live(api: Api, own: Server) -> None:
    model_id = api.model()
    for number, (name, ttl) in enumerate(
        {"short": 3600, "long": 7200, "for_ever": None}.items(), 1
    ):
        api.result(
            api.ok("save_weights", model_id=model_id, seq_id=number, path=name, ttl_seconds=ttl)
        )
    url = f"training_runs/{model_id}/checkpoints"
    later = time.time() + 3700
    own.sweep(later)
    assert [row["checkpoint_id"] for row in api.get(url).json()["checkpoints"]] == [
        "weights/for_ever",
        "weights/long",
    ]
    assert folders(own) == {"for_ever", "long"}
    assert (
        api.send("weights_info", tinker_path=f"tinker://{model_id}/weights/short").status_code
        == 404
    )
    day = datetime.fromtimestamp(later, UTC).date().isoformat()  # tomorrow, late in the evening
    audit = api.get("audit", event_type="checkpoints", day=day).json()["entries"]
    assert "checkpoint.expired" in {entry["event"] for entry in audit}


def test_a_session_without_a_heartbeat_ends_and_its_memory_is_freed(api: Api, own: Server) -> None:
    session_id, engine = api.session(), api.engine
    model_id, sampler_id = api.model(session_id), api.sampler(session_id)
    api.result(api.ok("asample", **sample(sampler_id, 0)))
    saved = api.result(
        api.ok("save_weights_for_sampler", model_id=model_id, seq_id=1, sampling_session_seq_id=1)
    )
    api.result(api.ok("asample", **sample(saved["sampling_session_id"], 0)))
    never = api.step(model_id, 7)
    own._state.activity._started_at -= 2000  # the server has been there for long
    own.sweep(time.time() + 500)
    assert api.ok("session_heartbeat", session_id=session_id) is not None
    own.sweep(time.time() + 700)

    beat = api.send("session_heartbeat", session_id=session_id)
    assert (beat.status_code, "neither a heartbeat" in beat.json()["detail"]) == (410, True)
    found = api.ok("sessions/search", session_id=session_id)["sessions"]
    assert found[0]["status"]["type"] == "cancelled"
    assert "heartbeat" in found[0]["status"]["detail"]
    assert api.send("forward_backward", **step(model_id, 2)).status_code == 404
    assert "unloaded" in api.result(never)["error"]
    wait_until(lambda: (engine.models, engine.samplers) == (set(), {}))
    own.sweep()
    assert folders(own) == set()
    assert (
        "deleted"
        in api.result(api.ok("asample", **sample(saved["sampling_session_id"], 1)))["error"]
    )


def test_requests_keep_a_session_as_heartbeats_do(api: Api, own: Server) -> None:
    session_id = api.session()
    model_id, sampler_id = api.model(session_id), api.sampler(api.session())
    own._state.activity._started_at -= 2000
    silent = lambda: own._state.activity.silent(time.time() - 0.001)  # noqa: E731
    time.sleep(0.01)
    assert len(silent()) == 2
    api.step(model_id, 1)
    api.ok("asample", **sample(sampler_id, 0))
    own.sweep(time.time() + 599)
    assert api.send("session_heartbeat", session_id=session_id).status_code == 200


def test_a_request_after_the_end_of_its_session_is_forgotten(api: Api, own: Server) -> None:
    session_id = api.session()
    sampler_id = api.sampler(session_id)
    api.ok(f"sessions/{session_id}/finish", reason={"type": "success"}, detail=None)
    api.result(api.ok("asample", **sample(sampler_id, 0)))
    own._state.activity._started_at -= 2000
    own.sweep(time.time() + 700)
    assert not own._state.activity._last_request


def test_a_session_has_its_time_again_after_a_restart(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        api.session()
    with serve(
        engine=RecordingEngine(), data_dir=tmp_path, limits=Limits(silence_seconds=100)
    ) as server:
        assert server._state.activity.silent(time.time() - 1) == []


def test_no_session_ends_because_the_machine_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sweep after that may come before the heartbeats of the clients."""
    monkeypatch.setattr(expiry, "PERIOD", 0.05)
    swept = threading.Semaphore(0)
    sweep, now = expiry.sweep, time.time

    async def counted(state: CommonState, at: float) -> None:
        await sweep(state, at)
        swept.release()

    monkeypatch.setattr(expiry, "sweep", counted)
    with started(RecordingEngine(), limits=Limits(silence_seconds=1000)) as api:
        session_id = api.session()
        monkeypatch.setattr(time, "time", lambda: now() + DAY)
        for _ in range(3):
            assert swept.acquire(timeout=10)
        assert api.send("session_heartbeat", session_id=session_id).status_code == 200
        monkeypatch.undo()


def test_finishing_a_session_frees_what_was_saved_for_it(api: Api, own: Server) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    api.result(
        api.ok("save_weights_for_sampler", model_id=model_id, seq_id=1, sampling_session_seq_id=0)
    )
    api.result(api.ok("save_weights", model_id=model_id, seq_id=2, path="kept"))
    assert folders(own) == {f"{session_id}_sample_0", "kept"}
    assert api.ok(f"sessions/{session_id}/finish", reason={"type": "success"}, detail=None) == {}
    assert folders(own) == {"kept"}


def test_the_least_recently_used_weights_are_unloaded_and_loaded_again() -> None:
    engine = RecordingEngine()
    engine.gate.set()
    with started(engine, limits=Limits(samplers=2)) as api:
        samplers = [api.sampler(api.session()) for _ in range(3)]
        for sampler in (samplers[0], samplers[1], samplers[0], samplers[2]):
            api.result(api.ok("asample", **sample(sampler)))
        api.result(api.ok("asample", **sample(samplers[2])))
        assert engine.samplers.keys() == {samplers[0], samplers[2]}
        assert api.result(api.ok("asample", **sample(samplers[1])))["sequences"], (
            "it is loaded again"
        )
        assert engine.count("load_sampler", samplers[1]) == 2


def test_nothing_of_ended_sessions_stays_in_memory(own: Server, api: Api) -> None:
    for _ in range(3):
        session_id = api.session()
        model_id, sampler_id = api.model(session_id), api.sampler(session_id)
        api.result(api.step(model_id, 1))
        api.result(api.ok("asample", **sample(sampler_id, 0)))
        target = {"type": "sampling_session", "sampling_session_id": sampler_id}
        api.ok("retrieve_futures", target=target, timeout=0)
        path = api.result(api.ok("save_weights", model_id=model_id, seq_id=2, path="a"))["path"]
        api.ok("copy_weights", source_path=path, destination_project_id="p")
        api.ok(f"sessions/{session_id}/finish", reason={"type": "success"}, detail=None)
    own.sweep()
    state = own._state
    # a sweep does not wait for the engine to unload the models of a session that ended
    wait_until(lambda: not state.lanes._turns and not state.lanes._running)
    assert not state.futures._active
    assert not state.futures._ended._logs
    assert not state.samplers._loading
    assert not state.activity._last_request
    assert not state.folders._held


@define(eq=False)
class SlowToMake(RecordingEngine):
    """An engine that creates a model only when its gate is open."""

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        self.waiting.release()
        assert self.gate.wait(10)
        return super().create_model(model_id, base_model, lora, optimizer)


def test_a_model_whose_session_ends_while_it_is_made_is_freed_and_forgotten() -> None:
    engine = SlowToMake()
    with serve(engine=engine) as server, httpx.Client(base_url=server.base_url, timeout=15) as http:
        api = Api(http, engine)
        session_id = api.session()
        promise = api.ok("create_model", **new_model(session_id))
        assert engine.waiting.acquire(timeout=10)
        api.ok(f"sessions/{session_id}/finish", reason={"type": "success"}, detail=None)
        engine.gate.set()
        api.result(promise)
        wait_until(lambda: not server._state.lanes._running)
        assert engine.models == set()
        assert server._state.recovery._saved_states == {}


def test_gc_shrinks_a_data_folder(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model()
        api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="kept"))
        api.result(api.ok("save_weights", model_id=model_id, seq_id=2, path="gone", ttl_seconds=1))
        for number in range(3, 40):
            api.result(api.step(model_id, number, *[1] * 60))
        with pytest.raises(StoreError, match="in use by another server"):
            gc(tmp_path)
    orphan = tmp_path / "checkpoints" / "other" / "weights" / "left.12345678"
    orphan.mkdir(parents=True)
    (orphan / "file").write_bytes(b"x" * 5000)
    time.sleep(1.1)  # for the checkpoint to expire
    collected = gc(tmp_path, Limits(result_seconds=0, request_seconds=0))
    assert collected.before.database > collected.after.database > 0
    assert collected.before.checkpoints > 5000 > collected.after.checkpoints > 0
    assert [path.name.partition(".")[0] for path in tmp_path.glob("checkpoints/*/*/*")] == ["kept"]
    assert not (tmp_path / "checkpoints" / "other").exists()


def test_the_gc_command_serves_nothing(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert (
            "in use"
            in CliRunner().invoke(main, ["serve", "--gc", "--data-dir", str(tmp_path)]).output
        )
        api.model()
    result = CliRunner().invoke(main, ["serve", "--gc", "--data-dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "of database, 0 B of checkpoints, 0 B of samplers" in result.output
    assert "with 2 entries of the audit log, 0 of usage" in result.output
    nowhere = CliRunner().invoke(main, ["serve", "--gc", "--data-dir", str(tmp_path / "none")])
    assert (nowhere.exit_code, "is not the data folder" in nowhere.output) == (1, True)


def test_two_servers_do_not_share_a_data_folder(tmp_path: Path) -> None:
    with (
        started(RecordingEngine(), data_dir=tmp_path),
        pytest.raises(StoreError, match="in use by another server"),
    ):
        serve(engine=RecordingEngine(), data_dir=tmp_path)


def test_a_checkpoint_that_is_written_anew_while_it_is_read_stays_until_then(
    api: Api, own: Server
) -> None:
    """A model that loads from a folder holds the folder."""
    model_id = api.model()
    api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="a"))
    before = saved_folder(own.data_dir, model_id, "weights", "a")
    with own._state.folders.hold(before.relative_to(own.data_dir).as_posix()):
        api.result(api.ok("save_weights", model_id=model_id, seq_id=2, path="a", overwrite=True))
        assert before.is_dir()
    own.sweep()
    assert not before.exists()
    assert saved_folder(own.data_dir, model_id, "weights", "a").is_dir()


def test_a_save_that_fails_leaves_no_folder(
    api: Api, own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = api.model()

    def fail(engine: RecordingEngine, model_id: str, folder: Path, *, optimizer: bool) -> None:
        folder.mkdir()
        raise OSError("no space left on device")

    monkeypatch.setattr(RecordingEngine, "save_model", fail)
    assert (
        "no space"
        in api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="a"))["error"]
    )
    own.sweep()
    assert folders(own) == set()
    assert api.send("create_model", **new_model(api.session())).status_code == 200
