"""Ctrl-C during `tinkex train`, typed on a terminal: once saves the run, twice ends it."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import OnTerminal
from tests.support.wait_until import wait_until
from tinkex import ServiceClient
from tinkex.local import Faults, Server, serve
from tinkex.recipes import SftConfig, train

CTRL_C = "\x03"
KEY = "tml-test"
ROWS = [{"prompt": word, "completion": word.upper()} for word in ("red", "green", "blue")]
SETTINGS: dict[str, Any] = {"steps": 12, "batch_size": 2, "rank": 4, "save_every": 5}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def sft(server: Server, data: Path, out: Path) -> OnTerminal:
    """Starts the command on a terminal that is wide enough for its hints."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    line = ["train", "sft", f"--data={data}", f"--out={out}", f"--base-url={server.base_url}"]
    return OnTerminal(*line, *flags, columns=200, TINKER_API_KEY=KEY)


def losses(out: Path) -> list[tuple[int, float]]:
    path = out / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


def plain(screen: str) -> str:
    """Returns what a terminal got without colors and movements of the cursor."""
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen)


def test_one_ctrl_c_saves_and_the_command_it_prints_resumes_exactly(
    torch_server: Server, data: Path, tmp_path: Path
) -> None:
    with ServiceClient(base_url=torch_server.base_url, api_key=KEY) as service:
        whole = train(SftConfig(data=str(data), out=str(tmp_path / "whole"), **SETTINGS), service)
    out = tmp_path / "interrupted"
    with sft(torch_server, data, out) as first:
        wait_until(lambda: len(losses(out)) >= 1, seconds=60)
        first.type(CTRL_C)
        first.wait_for("ending after a save; Ctrl-C again ends at once")
        assert first.end() == 130
    steps = len(losses(out))
    assert 1 <= steps < SETTINGS["steps"]
    screen = plain(first.shown)
    assert f"sft interrupted after {steps} of 12 steps" in screen
    assert "Traceback" not in screen
    [hint] = re.findall(r"^hint: (tinkex train sft --resume .*)$", screen, re.MULTILINE)
    with OnTerminal(*shlex.split(hint)[1:], columns=200, TINKER_API_KEY=KEY) as second:
        assert second.end() == 0
    assert f"steps {steps + 1} to 12" in plain(second.shown)
    assert losses(out) == losses(tmp_path / "whole")
    assert len(whole.metrics) == 12


def test_a_second_ctrl_c_ends_at_once(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    slow = Faults(delay=300.0, operations=("save_weights",))
    with serve(engine="fake", faults=slow) as server, sft(server, data, out) as command:
        wait_until(lambda: len(losses(out)) >= 1, seconds=60)
        command.type(CTRL_C)
        command.wait_for("Ctrl-C again ends at once")
        began = time.monotonic()
        command.type(CTRL_C)
        assert command.end() == 130
    assert time.monotonic() - began < 20
    screen = plain(command.shown)
    assert "interrupted" in screen
    assert "Traceback" not in screen
