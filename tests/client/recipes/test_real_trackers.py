"""The records of the packages of trackers, of a run that was resumed; for those that are
installed.

Each run is a process of its own, since the packages begin threads and processes that end with it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.client.recipes.conftest import COLORS
from tinkex.local import Server

Rows = list[tuple[int, dict[str, float]]]


@pytest.fixture
def tracked(
    tmp_path: Path, torch_server: Server, data: Callable[..., str]
) -> Callable[[str], Rows]:
    """Trains two steps and, resumed, two more, with a tracker; returns the metrics of the run."""
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "TINKER_BASE_URL": torch_server.base_url,
        "TINKER_API_KEY": "tml-test",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_MODE": "offline",
    }

    def train(*args: str) -> None:
        command = [sys.executable, "-m", "tinkex", "train", "sft", *args]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("recipe\t")
        assert "Reserved keys" not in done.stderr

    def run(name: str) -> Rows:
        file = data(*COLORS)
        begin = ("--data", file, "--eval-data", file, "--eval-every", "2", "--rank", "4")
        train(*begin, "--steps", "2", "--out", "mine", "--log", name)
        train("--resume", "mine", "--steps", "4")
        lines = map(json.loads, (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines())
        return [(line.pop("step"), _without(line, "time")) for line in lines]

    return run


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@needs("wandb")
def test_wandb_records_one_run(tracked: Callable[[str], Rows], tmp_path: Path) -> None:
    expected = tracked("wandb")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    records = [record for file in files for record in _wandb_records(file)]
    runs = [record.run for record in records if record.HasField("run")]
    assert len({run.run_id for run in runs}) == 1
    assert {run.display_name for run in runs} == {"mine"}
    configs = [{each.key: each.value_json for each in run.config.update} for run in runs]
    assert [config["steps"] for config in configs] == ["2", "4"]
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0, 0]
    rows = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in (record.history for record in records if record.HasField("history"))
    ]
    assert [(row["_step"], _own(row)) for row in rows] == expected


@needs("trackio")
def test_trackio_records_one_run(tracked: Callable[[str], Rows], tmp_path: Path) -> None:
    expected = tracked("trackio")
    with closing(sqlite3.connect(tmp_path / "trackio" / "tinkex.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
        [(name, config)] = database.execute("SELECT run_name, config FROM configs").fetchall()
    assert [(step, json.loads(metrics)) for step, metrics in rows] == expected
    assert name.startswith("mine-")
    assert json.loads(config)["steps"] == 4


@needs("tensorboard")
def test_tensorboard_has_the_metrics(tracked: Callable[[str], Rows], tmp_path: Path) -> None:
    expected = tracked("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    found: Any = event_accumulator.EventAccumulator(str(tmp_path / "mine" / "tensorboard"))
    found.Reload()
    seen: dict[int, dict[str, float]] = {}
    for tag in found.Tags()["tensors"]:
        for each in found.Tensors(tag):
            seen.setdefault(each.step, {})[tag] = each.tensor_proto.float_val[0]
    assert [step for step, _ in expected] == sorted(seen)
    for step, metrics in expected:
        assert seen[step] == pytest.approx(metrics, rel=1e-6)  # they are float32


def _without(values: Mapping[str, float], name: str) -> dict[str, float]:
    return {each: value for each, value in values.items() if each != name}


def _own(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values that wandb has not added itself."""
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _wandb_records(file: Path) -> Iterator[Any]:
    """Yields the records of a file of wandb, which are parts of blocks, as in a log of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    raw, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", raw, at)
        part = raw[at + 7 : at + 7 + size]
        record = part if kind in (1, 2) else record + part
        at += 7 + size
        if kind in (1, 4):
            parsed: Any = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed
