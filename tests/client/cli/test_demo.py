"""`tinkex demo`, with few steps, on a server that really trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click.testing
import pytest

from tinkex.cli import main
from tinkex.local import Server


def test_it_trains_samples_and_draws(torch_server: Server, tmp_path: Path) -> None:
    options = ["demo", f"--base-url={torch_server.base_url}", "--steps=6", f"--out={tmp_path}"]
    done = click.testing.CliRunner().invoke(main, [*options, "--json"])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert row["last_loss"] < row["first_loss"]
    assert (row["steps"], row["right_before"]) == (6, 0.0)
    assert row["checkpoint"].startswith("tinker://")
    lines = Path(row["losses"]).read_text().splitlines()
    assert (lines[0], len(lines)) == ("step,loss", 7)
    assert float(lines[1].split(",")[1]) == pytest.approx(row["first_loss"], abs=1e-6)
    assert Path(row["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "step=6/6 loss=" in done.stderr
    assert "\x1b" not in done.output


def test_a_person_sees_the_curve_and_learns_what_draws_a_picture(
    torch_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKEX_FORCE_TTY", "100")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = ["demo", f"--base-url={torch_server.base_url}", "--steps=6", f"--out={tmp_path}"]
    done = click.testing.CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    shown = done.stderr.partition("loss in nats a token\n")[2].splitlines()[:8]
    losses = [float(line.split(",")[1]) for line in (tmp_path / "loss.csv").read_text().split()[1:]]
    assert float(shown[0].split()[0]) == pytest.approx(max(losses), rel=1e-3)
    assert float(shown[7].split()[0]) == pytest.approx(min(losses), rel=1e-3)
    assert all(any("\u2800" < letter < "\u2900" for letter in line) for line in shown)
    assert "pip install 'tinkex[plot]'" in done.stderr
