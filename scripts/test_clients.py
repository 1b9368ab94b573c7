"""Runs a whole job with the official SDK, unchanged, on the embedded server: `make test-clients`, or with versions as arguments.

Each version gets a venv of its own under .cache/clients; nothing of it reaches ours.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import tinkex.local

ROOT = Path(__file__).resolve().parents[1]
JOB = ROOT / "tests" / "clients" / "official_job.py"
VERSIONS = ("0.12.0", "0.18.0", "0.22.0", "0.25.0", "0.30.0", "0.36.0", "0.38.0")
TIMEOUT = 180  # seconds; a client that does not fit a server hangs rather than fails


def python_with(version: str) -> Path:
    """The interpreter of a venv that has this version of the SDK, made if need be."""
    folder = ROOT / ".cache" / "clients" / version
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        # orjson, since 0.18.0 imports it and does not say so
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"tinker=={version}", "orjson"], check=True)
        (folder / ".ready").touch()
    return python


def main() -> int:
    failed = 0
    with tinkex.local.serve() as server:
        for version in sys.argv[1:] or VERSIONS:
            try:
                failed += subprocess.run([python_with(version), JOB, server.base_url], timeout=TIMEOUT).returncode != 0
            except subprocess.TimeoutExpired:
                print(f"tinker {version}: no end after {TIMEOUT} s")
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
