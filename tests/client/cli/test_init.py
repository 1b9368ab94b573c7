"""`tinkex init`: what it writes runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click.testing

from tinkex.cli import main
from tinkex.local import Server


def test_what_it_writes_learns_its_data(torch_server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    done = click.testing.CliRunner().invoke(main, ["init", str(folder)])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [f"{folder}/train.py\t28", f"{folder}/data.jsonl\t8"]
    assert done.stderr == f"hint: cd '{folder}' && python train.py\n"
    ran = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        env={**os.environ, "TINKER_BASE_URL": torch_server.base_url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    taught = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert ran.stdout.splitlines() == [one["prompt"] + one["completion"] for one in taught]
    assert "step=40/40 loss=" in ran.stderr


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("mine")
    done = click.testing.CliRunner().invoke(main, ["init", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr == (
        f"Error: {tmp_path}/data.jsonl exists already; nothing was written\n"
        "hint: tinkex init my-model\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
