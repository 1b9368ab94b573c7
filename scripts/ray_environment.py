"""A venv with Ray under .cache: it is large, and brings packages that nothing else here needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path

from official_sdk import ROOT, share_ours


def python_with_ray() -> Path:
    """Returns the interpreter of a venv with the packages of the extra `ray`, which is made if
    needed. It finds the others among ours.
    """
    folder = ROOT / ".cache" / "ray"
    python = folder / "bin" / "python"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["ray"]
    ready = folder / ".ready"
    if not ready.exists() or ready.read_text() != str(wanted):
        venv.create(folder, clear=True)
        share_ours(folder)  # before, so that pip leaves out what ours satisfy
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, *wanted], check=True)
        ready.write_text(str(wanted))
    return python


def environment() -> Mapping[str, str]:
    """Returns the variables for a program of that venv, which imports this repository.

    Ray lets an actor of one core compute in one thread. So do all other processes, since sums of
    several threads have another order, and results are compared bit for bit.
    """
    path = os.pathsep.join((str(ROOT), str(ROOT / "generated")))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
