"""A venv of its own for each release of the official SDK, under .cache/clients: nothing of it
reaches ours.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""The environment of programs that start often: each would compile again what it imports, since pip
does not, and containers often forbid to keep it.
"""


def share_ours(folder: Path) -> Path:
    """Lets a venv find what it lacks among our packages; returns the folder of its own.

    What pip installs afterwards leaves out what ours satisfy.
    """
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(f"{sysconfig.get_path('platlib')}\n")
    return packages


def python_with(version: str, *, alone: bool = False) -> Path:
    """Returns the interpreter of a venv with this version, and makes it if needed.

    It finds what it lacks among our packages: torch, which custom losses need, and which is too
    large to have so often. If `alone`, it has what the SDK requires and nothing else: the SDK
    imports torch where it finds it, which takes longer than all else that it imports.
    """
    folder = ROOT / ".cache" / "clients" / (f"{version}-alone" if alone else version)
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        venv.create(folder, clear=True)
        pip = (
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-compile",
        )
        # orjson, since 0.18.0 imports it and does not say so
        subprocess.run([*pip, f"tinker=={version}", "orjson"], check=True)
        if not alone:
            share_ours(folder)
        (folder / ".ready").touch()
    return python


def ended_well(client: str, code: int) -> bool:
    """Returns whether a program that also printed all that it should ended well, by its exit code.

    With the "official" client a signal counts as well: the SDK's event loop runs in a daemon
    thread, and where the interpreter ends while that thread is in compiled code, the process
    crashes after its work, once in some 150 runs of the SDK's own commands.
    """
    return code == 0 or (code < 0 and client == "official")
