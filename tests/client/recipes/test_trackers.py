"""Trackers: each gets the metrics of every step, and one that is missing is named."""

from __future__ import annotations

import sys
from pathlib import Path
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
