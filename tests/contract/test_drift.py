"""Committed generated code is what its sources give, and the check notices when it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ("generated/tinkex_api", "generated/tinkex_proto", "tinkex/sync")
HOMES = "tinkex/_homes.py"


def check(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), "--check", f"--root={tree}"]
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | tools)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in GENERATED:
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copyfile(ROOT / HOMES, tmp_path / HOMES)
    return tmp_path


def test_there_is_no_drift(tree: Path) -> None:
    done = check(tree)
    assert (done.returncode, done.stdout) == (0, "")


def test_touched_missing_and_stray_files_are_named(tree: Path) -> None:
    touched, missing, stray = (tree / folder for folder in GENERATED)
    with (touched / "models" / "datum.py").open("a") as file:
        file.write("\n")
    (missing / "tinker_pb2.py").unlink()
    (stray / "extra.py").touch()
    (tree / HOMES).write_text("HOMES = {}\n")
    done = check(tree)
    assert done.returncode == 1
    assert done.stdout.splitlines()[:-1] == [
        "generated/tinkex_api: different: models/datum.py",
        "generated/tinkex_proto: missing: tinker_pb2.py",
        "tinkex/sync: stray: extra.py",
        "tinkex/_homes.py: different: .",
    ]
