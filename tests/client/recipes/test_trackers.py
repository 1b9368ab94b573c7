"""Trackers: each gets the metrics of every step, and one that is missing is named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinkex import ConfigError
from tinkex.recipes.trackers import open_trackers


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, f"{name}.summary"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        open_trackers([name], tmp_path, {})


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_what_a_tracker_prints_stays_out_of_stdout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    class Noisy(ModuleType):
        def init(self, **settings: Any) -> None:
            calls.append(settings)
            print("a run was made")

        def log(self, metrics: Any, step: int) -> None:
            calls.append((step, metrics))

        def finish(self) -> None:
            print("uploading")

    monkeypatch.setitem(sys.modules, name, Noisy(name))
    (tracker,) = open_trackers([name], tmp_path / "run-1", {"steps": 2})
    tracker.log(1, {"loss": 2.0})
    tracker.close()
    settings, logged = calls
    assert (settings["name"], settings["config"]) == ("run-1", {"steps": 2})
    assert logged == (1, {"loss": 2.0})
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "a run was made\nuploading\n")


def test_tensorboard_has_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard.summary")
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tracker,) = open_trackers(["tensorboard"], tmp_path, {})
    tracker.log(1, {"loss": 2.0})
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    tensors = found.Tensors("loss")
    assert [each.step for each in tensors] == [1, 2]
    assert [float(each.tensor_proto.float_val[0]) for each in tensors] == [2.0, 1.0]
