"""Runs a whole job with the official SDK, unchanged, on the embedded server: `make test-clients`, or with versions as arguments."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from official_sdk import ROOT, python_with

import tinkex.local

JOB = ROOT / "tests" / "clients" / "official_job.py"
VERSIONS = ("0.12.0", "0.18.0", "0.22.0", "0.25.0", "0.30.0", "0.38.0")
AT_ONCE = 3  # installing waits for the network, and a job for the server
TIMEOUT = 600  # seconds, of which a quiet machine needs one in ten; a client that does not fit a server hangs rather than fails


def main() -> int:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        passed = list(pool.map(passes, sys.argv[1:] or VERSIONS))
    return 0 if all(passed) else 1


def passes(version: str) -> bool:
    """Each has a server of its own: an old client cannot read what newer ones save."""
    python = python_with(version)
    with tinkex.local.serve() as server:
        begin = time.monotonic()
        try:
            job = subprocess.run([python, JOB, server.base_url], timeout=TIMEOUT, capture_output=True, text=True)
        except subprocess.TimeoutExpired as error:
            print(f"tinker {version}: no end after {TIMEOUT} s\n{error.stderr}", flush=True)
            return False
    report = job.stderr if job.returncode else job.stdout
    print(f"{report}tinker {version}: {time.monotonic() - begin:.0f} s, exit {job.returncode}", flush=True)
    return job.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
