"""A start deletes nothing: folders that the database does not know are restored or set aside."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from attrs import define
from click.testing import CliRunner

from tests.support.counting_engine import process
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, calls, new_model, sample, started
from tinkex.cli import main
from tinkex.local import serve
from tinkex_server.data_dir.folders import Folders

Damage = Callable[[Path, Path], None]


def gone(data_dir: Path, older: Path) -> None:
    for file in data_dir.glob("tinkex.db*"):
        file.unlink()


def empty(data_dir: Path, older: Path) -> None:
    gone(data_dir, older)
    (data_dir / "tinkex.db").touch()


def of_before(data_dir: Path, older: Path) -> None:
    gone(data_dir, older)
    shutil.copy(older, data_dir / "tinkex.db")


def without_its_log(data_dir: Path, older: Path) -> None:
    (data_dir / "tinkex.db-wal").unlink()


@define
class Trained:
    """A model that steps and saves; `saved` is the number of steps at each save."""

    api: Api
    model_id: str
    number: int = 0

    def ask(self, operation: str, **body: object) -> dict[str, object]:
        self.number += 1
        return self.api.result(
            self.api.ok(operation, model_id=self.model_id, seq_id=self.number, **body)
        )

    def save(self, count: int) -> dict[str, int]:
        saved: dict[str, int] = {}
        for steps in range(1, count + 1):
            self.ask("optim_step", adam_params={})
            saved[str(self.ask("save_weights", path=f"at-{steps}")["path"])] = steps
            saved[str(self.ask("save_weights", path="newest", overwrite=True)["path"])] = steps
        return saved


def loss_of(api: Api, path: str) -> float:
    session_id = api.session()
    loaded = api.result(
        api.ok("load_weights", session_id=session_id, model_seq_id=0, path=path, optimizer=True)
    )
    return api.result(api.step(loaded["model_id"], 1))["metrics"]["loss:sum"]


@pytest.mark.parametrize("damage", [gone, empty, of_before, without_its_log])
def test_no_save_that_was_acknowledged_is_lost_with_the_database(
    tmp_path: Path, damage: Damage
) -> None:
    """The server is killed; its checkpoints are listed again, and have the losses of before."""
    data_dir, older = tmp_path / "data", tmp_path / "older.db"
    with process(data_dir) as server:
        with calls(server.base_url) as api:
            saved = Trained(api, api.model()).save(2)
            server.kill()
            server.start()  # so that the database holds what its log did
        server.kill()
        shutil.copy(data_dir / "tinkex.db", older)
        server.start()
        with calls(server.base_url) as api:
            model_id = api.model()
            trained = Trained(api, model_id)
            saved |= trained.save(3)
            sampler = str(
                trained.ask("save_weights_for_sampler", sampling_session_seq_id=1)[
                    "sampling_session_id"
                ]
            )
        server.kill()
        there = sorted(data_dir.glob("checkpoints/*/*/*/*"))
        damage(data_dir, older)
        server.start()
        with calls(server.base_url) as api:
            listed = api.get("checkpoints").json()["checkpoints"]
            assert {row["tinker_path"] for row in listed} == saved.keys()
            assert {path: loss_of(api, path) for path in saved} == saved
            assert api.result(api.ok("asample", **sample(sampler, 0)))["sequences"]
            run = api.get(f"training_runs/{model_id}").json()
            assert (run["base_model"], run["lora_rank"]) == ("fake/base", 4)
        assert sorted(data_dir.glob("checkpoints/*/*/*/*")) == there
        server.kill()
        server.start()
        with calls(server.base_url) as api:
            assert {
                row["tinker_path"] for row in api.get("checkpoints").json()["checkpoints"]
            } == saved.keys()


def save_one(api: Api, name: str) -> str:
    promise = api.ok("save_weights", model_id=api.model(), seq_id=1, path=name)
    return api.result(promise)["path"]


@contextmanager
def with_keys(data_dir: Path, *keys: str) -> Iterator[list[Api]]:
    engine = RecordingEngine()
    engine.gate.set()
    with serve(engine=engine, data_dir=data_dir, api_key=keys) as server, ExitStack() as opened:
        clients = [
            httpx.Client(base_url=server.base_url, timeout=15, headers={"X-API-Key": key})
            for key in keys
        ]
        yield [Api(opened.enter_context(client), engine) for client in clients]


def test_restored_checkpoints_belong_to_their_keys(tmp_path: Path) -> None:
    """The keys are given in another order, in which they get other ids."""
    with with_keys(tmp_path, "tml-a", "tml-b") as (a, b):
        saved = {"a": save_one(a, "of-a"), "b": save_one(b, "of-b")}
    gone(tmp_path, tmp_path)
    with with_keys(tmp_path, "tml-new", "tml-b", "tml-a") as (new, b, a):
        listed = {
            name: [row["tinker_path"] for row in api.get("checkpoints").json()["checkpoints"]]
            for name, api in {"a": a, "b": b, "new": new}.items()
        }
        assert listed == {"a": [saved["a"]], "b": [saved["b"]], "new": []}
        assert b.send("weights_info", tinker_path=saved["a"]).status_code == 404


def test_the_order_and_later_settings_are_restored(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model()
        for number, name in enumerate(["c", "a", "b"], 1):
            api.result(
                api.ok(
                    "save_weights",
                    model_id=model_id,
                    seq_id=number,
                    path=name,
                    ttl_seconds=1,
                    user_metadata={"n": name},
                )
            )
        url = f"training_runs/{model_id}/checkpoints"
        for name in "cab":
            assert (
                api.http.put(
                    f"/api/v1/{url}/weights/{name}/ttl", json={"ttl_seconds": None}
                ).status_code
                == 200
            )
        assert api.http.post(f"/api/v1/{url}/weights/a/publish").status_code == 200
        before = api.get(url).json()
    gone(tmp_path, tmp_path)
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert api.get(url).json() == before
        assert [row["checkpoint_id"] for row in before["checkpoints"]] == [
            "weights/b",
            "weights/a",
            "weights/c",
        ]
        new = api.send("create_model", **new_model(model_id.partition(":")[0]))
        assert (new.status_code, "already used" in new.text) == (400, True), (
            "a number of before is not given again"
        )


def test_deleted_checkpoints_are_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends before the files are removed."""
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        path = save_one(api, "a")
        monkeypatch.setattr(Folders, "_remove", lambda folders, names: None)
        url = f"/api/v1/training_runs/{path.split('/')[2]}/checkpoints/weights/a"
        assert api.http.delete(url).status_code == 200
        assert list(tmp_path.glob("checkpoints/*/*/*"))
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert api.get("checkpoints").json()["checkpoints"] == []
    assert list(tmp_path.glob("set_aside/checkpoints/*/weights/a.*")), "nor does a start remove it"


def test_an_unknown_folder_is_kept_until_its_deletion_is_confirmed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = tmp_path / "checkpoints" / "run" / "weights" / "a.12345678"
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        save_one(api, "kept")
    strange.mkdir(parents=True)
    (strange / "adapter_model.safetensors").write_bytes(b"weights")
    with started(RecordingEngine(), data_dir=tmp_path):
        pass
    aside = (
        tmp_path
        / "set_aside"
        / "checkpoints"
        / "run"
        / "weights"
        / "a.12345678"
        / "adapter_model.safetensors"
    )
    assert aside.read_bytes() == b"weights"
    assert "1 folder(s) of weights belong to no checkpoint" in caplog.text
    command = ["serve", "--gc", "--data-dir", str(tmp_path)]
    for answer in ("", "n\n"):
        told = CliRunner().invoke(main, command, input=answer)
        assert (
            told.exit_code,
            "7 B  set_aside/checkpoints/run/weights/a.12345678" in told.output,
        ) == (0, True), told.output
        assert aside.exists()
    assert CliRunner().invoke(main, [*command, "--yes"]).exit_code == 0
    assert not aside.exists()
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert len(api.get("checkpoints").json()["checkpoints"]) == 1


def test_files_added_while_the_server_runs_are_left_alone(tmp_path: Path) -> None:
    engine = RecordingEngine()
    engine.gate.set()
    with serve(engine=engine, data_dir=tmp_path) as server:
        put_back = tmp_path / "checkpoints" / "run" / "weights" / "a.12345678"
        put_back.mkdir(parents=True)
        server.sweep()
        assert put_back.is_dir()


def test_checkpoints_of_an_earlier_release_get_their_manifests(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        path = save_one(api, "a")
    [manifest] = tmp_path.glob("checkpoints/*/*/*/.tinkex.json")
    manifest.unlink()
    with started(RecordingEngine(), data_dir=tmp_path):
        pass
    gone(tmp_path, tmp_path)
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert [row["tinker_path"] for row in api.get("checkpoints").json()["checkpoints"]] == [
            path
        ]


def test_a_folder_with_the_name_format_of_an_earlier_release_is_found(tmp_path: Path) -> None:
    """The older names had colons, which Windows does not allow."""
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        path = save_one(api, "a")
    [folder] = tmp_path.glob("checkpoints/*/*/*")
    run = path.split("/")[2]
    folder.parents[1].rename(tmp_path / "checkpoints" / run)
    gone(tmp_path, tmp_path)
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert [row["tinker_path"] for row in api.get("checkpoints").json()["checkpoints"]] == [
            path
        ]
        assert loads(api, path)
    assert (tmp_path / "checkpoints" / run).is_dir()


def loads(api: Api, path: str) -> bool:
    loaded = api.ok(
        "load_weights", session_id=api.session(), model_seq_id=0, path=path, optimizer=True
    )
    return api.result(loaded).get("path") == path


def test_every_name_on_the_disk_is_one_that_windows_takes(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model()
        for number, name in enumerate(["con", "nul.x", "x" * 255, "a.", "A", "a"], 1):
            assert "path" in api.result(
                api.ok("save_weights", model_id=model_id, seq_id=number, path=name)
            ), name
        api.result(
            api.ok(
                "save_weights_for_sampler", model_id=model_id, seq_id=7, sampling_session_seq_id=0
            )
        )
        names = {part for path in tmp_path.rglob("*") for part in path.relative_to(tmp_path).parts}
        longest = max(len(str(path.relative_to(tmp_path))) for path in tmp_path.rglob("*"))
    for name in names:
        assert re.fullmatch(r'[^<>:"/\\|?*\x00-\x1f]*[^<>:"/\\|?*\x00-\x1f. ]', name), name
        assert name.split(".")[0].lower() not in ("con", "nul", "prn", "aux"), name
    assert longest < 200, "of the 260 characters that Windows takes of a path"


@pytest.mark.parametrize("how", ["removed", "another"])
@pytest.mark.parametrize("ephemeral", [False, True])
def test_a_save_is_not_acknowledged_once_the_data_folder_is_gone(
    tmp_path: Path, how: str, ephemeral: bool
) -> None:
    data_dir = tmp_path / "data"
    engine = RecordingEngine()
    engine.gate.set()
    with started(engine, data_dir=data_dir) as api:
        model_id = api.model()
        shutil.rmtree(data_dir)
        if how == "another":
            data_dir.mkdir()
        where = {"sampling_session_seq_id": 0} if ephemeral else {"path": "a"}
        answer = api.send("save_weights_for_sampler", model_id=model_id, seq_id=1, **where)
        told = api.send("retrieve_future", request_id=answer.json()["request_id"]).json()
        assert "the data folder" in told.get("error", ""), told
        assert not list(tmp_path.glob("data/*"))


def test_a_folder_that_goes_while_it_is_saved_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RecordingEngine.save_model

    def save_and_lose(
        engine: RecordingEngine, model_id: str, folder: Path, *, optimizer: bool
    ) -> None:
        save(engine, model_id, folder, optimizer=optimizer)
        (tmp_path / "tinkex.db").rename(tmp_path / "elsewhere")

    monkeypatch.setattr(RecordingEngine, "save_model", save_and_lose)
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        told = api.result(api.ok("save_weights", model_id=api.model(), seq_id=1, path="a"))
        assert "removed or replaced" in told.get("error", ""), told


@pytest.mark.skipif(os.name == "nt", reason="of the modes of POSIX")
def test_files_of_the_server_are_readable_only_by_their_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with started(RecordingEngine(), data_dir=tmp_path / "data") as api:
            save_one(api, "a")
            kept = [tmp_path / "data", *(tmp_path / "data").iterdir()]
            assert {path.name for path in kept} >= {
                "data",
                "tinkex.db",
                "tinkex.db-wal",
                "checkpoints",
                "samplers",
                "secret",
            }
            assert {path.name: oct(path.stat().st_mode & 0o077) for path in kept} == {
                path.name: "0o0" for path in kept
            }
    finally:
        os.umask(before)
