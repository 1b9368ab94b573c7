"""A server that is killed loses nothing that it acknowledged, and shows nothing half written."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, field

from tests.support.counting_engine import process
from tests.support.crashing_server import crash_at_saves
from tests.support.server_calls import Api, calls, saved_folder
from tinkex_server.data_dir.folders import write
from tinkex_server.wire.content import files_of

SECONDS = 10.0
"""The time in which the server is killed again and again."""


@define
class Saver:
    """A client that steps and saves as fast as it can, and remembers the answers."""

    api: Api
    model_id: str
    number: int = 0
    steps: int = 0
    promises: list[dict[str, Any]] = field(factory=list)
    saved: dict[str, int] = field(factory=dict)
    """The number of steps at each acknowledged save, by path; the last one of a save that is
    overwritten.
    """

    def run(self) -> None:
        """Steps and saves until the server is gone."""
        try:
            while True:
                self._ask("optim_step", adam_params={})
                self.steps += 1
                self._save(f"at-{self.steps}")
                self._save("newest", overwrite=True)
        except httpx.TransportError:
            pass  # it was killed, which is what this is for

    def _save(self, name: str, **how: Any) -> None:
        path = self._ask("save_weights", path=name, **how)["path"]
        self.saved[path] = self.steps

    def _ask(self, operation: str, **body: Any) -> dict[str, Any]:
        self.number += 1
        promise = self.api.ok(operation, model_id=self.model_id, seq_id=self.number, **body)
        self.promises.append(promise)
        return self.api.result(promise)


def check(api: Api, saver: Saver, data_dir: Path) -> None:
    """Checks after a restart that nothing acknowledged is lost."""
    for promise in saver.promises:
        result = api.result(promise)
        assert "restarted" in result.get("error", "restarted"), result
    listed = api.get(f"training_runs/{saver.model_id}/checkpoints").json()["checkpoints"]
    assert saver.saved.keys() <= {row["tinker_path"] for row in listed}
    for row in listed:  # those that were not acknowledged, too
        name = row["checkpoint_id"].removeprefix("weights/")
        folder = saved_folder(data_dir, saver.model_id, "weights", name)
        assert sum(file.stat().st_size for file in files_of(folder)) == row["size_bytes"]
        steps = int((folder / "steps").read_text())
        assert steps in (saver.saved.get(row["tinker_path"], steps), saver.steps)
    assert (
        len(list(data_dir.glob("checkpoints/*/*/*")))
        == api.get("checkpoints", limit=0).json()["cursor"]["total_count"]
    )


@pytest.mark.slow
def test_a_server_that_is_killed_at_any_moment_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    chance, kills, saves = random.Random(7), 0, 0
    deadline = time.monotonic() + SECONDS
    with process(tmp_path) as server:
        while time.monotonic() < deadline or kills < 2 or (not saves and kills < 50):
            with calls(server.base_url) as api:
                saver = Saver(api, api.model())
                thread = threading.Thread(target=saver.run)
                thread.start()
                time.sleep(chance.uniform(0.05, 0.6))
                server.kill()
                thread.join(15)
                assert not thread.is_alive()
            server.start()
            with calls(server.base_url) as api:
                check(api, saver, tmp_path)
                state = f"tinker://{saver.model_id}/weights/newest"
                if state in saver.saved:
                    loaded = api.ok(
                        "load_weights",
                        session_id=api.session(),
                        model_seq_id=0,
                        path=state,
                        optimizer=True,
                    )
                    assert api.result(loaded)["path"] == state
            kills, saves = kills + 1, saves + len(saver.saved)
    assert saves > 0


@pytest.mark.parametrize(("name", "kept"), [("before", 0), ("after", 1)])
def test_a_crash_between_the_steps_of_an_overwrite_leaves_one_of_the_two(
    tmp_path: Path, name: str, kept: int
) -> None:
    """The old save is left if the row was not written, and otherwise the new one."""
    with process(tmp_path, crash_at_saves) as server:
        with calls(server.base_url) as api:
            model_id = api.model()
            api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path=name))
            api.result(api.ok("optim_step", model_id=model_id, seq_id=2, adam_params={}))
            promise = api.ok("save_weights", model_id=model_id, seq_id=3, path=name, overwrite=True)
            with pytest.raises(httpx.TransportError):
                api.result(promise)
        server.kill()
        assert len(list(tmp_path.glob("checkpoints/*/*/*"))) == 2, "as the crash left it"
        server.start()
        with calls(server.base_url) as api:
            [row] = api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]
    folder = saved_folder(tmp_path, model_id, "weights", name)
    assert int((folder / "steps").read_text()) == kept
    assert sum(file.stat().st_size for file in files_of(folder)) == row["size_bytes"]


def test_a_folder_is_on_the_disk_with_all_that_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(
        "tinkex_server.data_dir.folders._flush", lambda path: flushed.append(path.name)
    )

    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "weights").write_bytes(b"1")

    write(tmp_path / "data" / "checkpoints" / "run" / "weights" / "a.1", save)
    assert flushed == ["weights", "a.1", "weights", "run", "checkpoints", "data"]
