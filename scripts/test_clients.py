"""Runs a whole job with the official SDK, unchanged, on the embedded server: `make test-clients`, or with versions as arguments."""

from __future__ import annotations

import subprocess
import sys

from official_sdk import ROOT, python_with

import tinkex.local

JOB = ROOT / "tests" / "clients" / "official_job.py"
VERSIONS = ("0.12.0", "0.18.0", "0.22.0", "0.25.0", "0.30.0", "0.36.0", "0.38.0")
TIMEOUT = 180  # seconds; a client that does not fit a server hangs rather than fails


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
