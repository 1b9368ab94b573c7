"""Trackers: each gets the metrics of every step, and one that is missing or fails is named."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinkex import ConfigError
from tinkex.recipes.run_folder import RunFolder
from tinkex.recipes.trackers import open_trackers


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run-1", "sft", {"steps": 2}, "http://server")


class Noisy(ModuleType):
    """A module with the functions of wandb and trackio, which prints, and notes its calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[Any] = []
        self.error: Exception | None = None

    def init(self, **settings: Any) -> None:
        self._note(settings)
        print("a run was made")

    def log(self, metrics: Any, step: int) -> None:
        self._note((step, metrics))

    def finish(self, **how: Any) -> None:
        self._note(how)
        print("uploading")

    def _note(self, call: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append(call)


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Noisy]:
    def take_the_place_of(name: str) -> Noisy:
        module = Noisy(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return take_the_place_of


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_named(
    name: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, f"{name}.summary"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        open_trackers([name], folder, {})


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_what_a_tracker_prints_stays_out_of_stdout(
    name: str,
    folder: RunFolder,
    noisy: Callable[[str], Noisy],
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = noisy(name)
    (tracker,) = open_trackers([name], folder, {"steps": 2})
    tracker.log(1, {"loss": 2.0})
    tracker.close(failed=False)
    settings, logged, _ = module.calls
    assert settings["name"].startswith("run-1")
    assert settings["config"] == {"steps": 2}
    assert logged == (1, {"loss": 2.0})
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "a run was made\nuploading\n")


@pytest.mark.parametrize(("name", "key"), [("trackio", "name"), ("wandb", "id")])
def test_a_run_is_the_same_when_resumed_and_another_in_a_folder_of_the_same_name(
    name: str, key: str, folder: RunFolder, tmp_path: Path, noisy: Callable[[str], Noisy]
) -> None:
    module = noisy(name)
    other = RunFolder.create(tmp_path / "elsewhere" / "run-1", "sft", {}, "http://server")
    for one in (folder, RunFolder.open(folder.path), other):
        open_trackers([name], one, {})
    first, resumed, another = (settings[key] for settings in module.calls)
    assert first == resumed
    assert first != another
    assert all(settings["resume"] == "allow" for settings in module.calls)


@pytest.mark.parametrize("failed", [False, True])
def test_wandb_knows_whether_the_run_has_failed(
    folder: RunFolder, noisy: Callable[[str], Noisy], failed: bool
) -> None:
    module = noisy("wandb")
    (tracker,) = open_trackers(["wandb"], folder, {})
    tracker.close(failed=failed)
    assert module.calls[-1] == {"exit_code": int(failed)}


def test_a_tracker_that_cannot_begin_says_why(
    folder: RunFolder, noisy: Callable[[str], Noisy]
) -> None:
    noisy("wandb").error = RuntimeError("no API key")
    with pytest.raises(ConfigError, match="--log wandb cannot begin a run: no API key"):
        open_trackers(["wandb"], folder, {})


def test_a_tracker_that_fails_does_not_end_the_run(
    folder: RunFolder, noisy: Callable[[str], Noisy], caplog: pytest.LogCaptureFixture
) -> None:
    module = noisy("wandb")
    (tracker,) = open_trackers(["wandb"], folder, {})
    tracker.log(1, {"loss": 2.0})
    module.error = ConnectionResetError("gone")
    with caplog.at_level(logging.WARNING, "tinkex"):
        tracker.log(2, {"loss": 1.0})
        tracker.log(3, {"loss": 0.5})
        tracker.close(failed=False)
    assert [record.message for record in caplog.records] == [
        "wandb has no metrics from step 2 on: gone"
    ]
